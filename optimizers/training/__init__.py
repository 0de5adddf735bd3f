"""Trains the generator: the trainer protocol, the trainer that uses TRL and PEFT, and the losses."""
