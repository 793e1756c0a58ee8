"""From requests to steps of the model: blocks, scheduler, runner, engine."""
