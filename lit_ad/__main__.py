"""The command line, as `python -m lit_ad`."""

from lit_ad.commands.main import main

if __name__ == "__main__":
    main()
