"""Inner loop (`trainer`), outer optimizers (`outer`), router losses, schedule, checkpoints."""
