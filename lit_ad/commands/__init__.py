"""The commands of `lit-ad`: main.py holds their table, and each command is one function."""
