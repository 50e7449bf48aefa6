r"""The configuration of `nodequant train`: one YAML file an option."""
