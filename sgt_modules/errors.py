"""Every exception of this package.

    SGTError
    ├── SetupError                 found before the first paid call (also a ValueError)
    │   ├── EmptyTrainsetError     nothing to learn from
    │   ├── OverlappingSplitsError an example stands in two splits
    │   ├── ExampleError           an example has no inputs, or lacks a field the program reads
    │   ├── MetricError            the metric raises, or returns something that is no reward in [0, 1]
    │   ├── NoActorError           no LM is set for a predictor
    │   ├── NoPredictorError       the program has nothing that could read a supplement
    │   ├── GeneratorNotFoundError no model at that hub id or path, or not the one that was meant
    │   ├── TaskDataError          a task's rows cannot be had, or do not fit its schema
    │   ├── SandboxError           this system cannot isolate what a model writes
    │   ├── SavedStateError        a saved program refers to weights in a way that cannot be followed
    │   └── RunFolderError         the run folder belongs to another run, or cannot be read
    ├── StoppedError               nothing more may be spent: a budget is used up, or somebody stopped the run
    ├── ProviderRefusedError       the actor's provider takes no call: a wrong key, no such model, no credit
    ├── EndpointError              a generator's server gave no reply, or refused trained weights
    ├── TrainingError              a stage of training cannot be done
    │   ├── DivergedError          the loss or the weights are no numbers any more
    │   └── NoPreferencePairsError every supplement won, or every one lost
    └── MainProcessError           of several processes, the main one stopped; raised in the others

Each message says what was expected, what came, and what to do, and carries a note with its section of docs/errors.md.
"""


class SGTError(Exception):
    """The root: catch it to catch everything this package raises on purpose.

    Its note, which a traceback shows under the message, names the section of the documentation.

    >>> MetricError("The metric returned 'yes'.").__notes__
    ['More: docs/errors.md#metricerror']
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        named = next(each for each in type(self).__mro__ if each.__module__ == __name__)
        self.add_note(f"More: docs/errors.md#{named.__name__.lower()}")


class SetupError(SGTError, ValueError):
    """Something is wrong with what was passed in; nothing has been paid for yet."""


class EmptyTrainsetError(SetupError):
    """The training set has no examples."""


class OverlappingSplitsError(SetupError):
    """The same example stands in two splits."""


class ExampleError(SetupError):
    """An example has no inputs, or is no `dspy.Example`."""


class MetricError(SetupError):
    """The metric raises, or returns something that is no reward in [0, 1]."""


class NoActorError(SetupError):
    """A predictor has no LM, and none is configured."""


class NoPredictorError(SetupError):
    """The program has no predictor that could read a supplement."""


class GeneratorNotFoundError(SetupError):
    """No generator model can be loaded from the given hub id or path, or it is not the one that was meant."""


class TaskDataError(SetupError):
    """The rows of a task cannot be had (gated, missing, out of reach), do not fit its schema, or are too few."""


class SandboxError(SetupError):
    """This system cannot isolate what a model writes, or the sandbox's workers are lost."""


class SavedStateError(SetupError):
    """A saved program refers to its weights in a way that cannot be followed."""


class RunFolderError(SetupError):
    """The run folder belongs to another run, or cannot be read."""


class StoppedError(SGTError):
    """Nothing more may be spent: a budget is used up, or somebody stopped the run. What it has is saved."""


class ProviderRefusedError(SGTError):
    """The actor's provider takes no call at all: a wrong key, no such model, no credit."""


class EndpointError(SGTError):
    """The server behind a generator gave no reply, or refused trained weights."""


class TrainingError(SGTError):
    """A stage of training cannot be done."""


class DivergedError(TrainingError):
    """The loss or the weights of a stage are no numbers any more."""


class NoPreferencePairsError(TrainingError):
    """No query has both a winner and a loser, so there is nothing to prefer."""


class MainProcessError(SGTError):
    """Of several processes the main one stopped, so there is nothing left to do for this one."""
