"""`python -m lit_ad`."""

from lit_ad.run.main import main

if __name__ == "__main__":
    main()
