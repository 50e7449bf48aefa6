"""The command `nodequant`; the only place that knows Hydra."""
