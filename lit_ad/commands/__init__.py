"""The commands of `lit-ad`: one table, one function for each."""
