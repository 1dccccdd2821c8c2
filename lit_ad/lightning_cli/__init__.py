"""LightningCLI as lit_ad uses it: the commands fit, validate, test and predict."""
