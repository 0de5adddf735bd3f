"""What every package of the optimizers builds on: records, rewards, checks, usage, budget, the run folder."""
