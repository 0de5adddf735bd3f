"""The exceptions of this package, as a tree.

    SGTError
    ├── SetupError                 raised before the first paid call (also a ValueError)
    │   ├── EmptyTrainsetError     the training set has no examples
    │   ├── OverlappingSplitsError an example is in two splits
    │   ├── ExampleError           an example has no inputs, or lacks a field that the program reads
    │   ├── MetricError            the metric raises, or returns something other than a reward in [0, 1]
    │   ├── NoActorError           no LM is set for a predictor
    │   ├── NoPredictorError       the program has no predictor that can read a supplement
    │   ├── GeneratorNotFoundError there is no model at the hub id or path, or it is not the expected one
    │   ├── TaskDataError          a task's rows cannot be loaded, or do not fit its schema
    │   ├── SandboxError           this system cannot isolate what a model writes
    │   ├── SavedStateError        a saved program is damaged, or refers to weights outside of its folder
    │   └── RunFolderError         the run folder belongs to another run, or cannot be read
    ├── StoppedError               a budget is used up, or the user stopped the run
    ├── ProviderRefusedError       the actor's provider refuses every call: a wrong key, no such model, no credit
    ├── EndpointError              a generator's server gave no reply, or refused trained weights
    ├── TrainingError              a training stage failed
    │   ├── DivergedError          the loss or the weights are not finite
    │   └── NoPreferencePairsError every supplement won, or every supplement lost
    └── MainProcessError           the main process of several stopped; raised in the others

Each message says what was expected, what was received and what to do. A note names the section of docs/errors.md.
"""


class SGTError(Exception):
    """Base class of all exceptions that this package raises on purpose.

    A traceback shows its note, which names the section of the documentation.

    >>> MetricError("The metric returned 'yes'.").__notes__
    ['More: docs/errors.md#metricerror']
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        documented_class = next(each for each in type(self).__mro__ if each.__module__ == __name__)
        self.add_note(f"More: docs/errors.md#{documented_class.__name__.lower()}")


class SetupError(SGTError, ValueError):
    """An argument or the setup is wrong; no paid call has been made."""


class EmptyTrainsetError(SetupError):
    """The training set has no examples."""


class OverlappingSplitsError(SetupError):
    """The same example is in two splits."""


class ExampleError(SetupError):
    """An example has no inputs, lacks a field, or is not a `dspy.Example`."""


class MetricError(SetupError):
    """The metric raises, or returns something that is no reward in [0, 1]."""


class NoActorError(SetupError):
    """A predictor has no LM, and none is configured."""


class NoPredictorError(SetupError):
    """The program has no predictor that can read a supplement."""


class GeneratorNotFoundError(SetupError):
    """No model can be loaded from the hub id or path, or the model is not the expected one."""


class TaskDataError(SetupError):
    """The rows of a task cannot be loaded (gated, missing, no network), do not fit its schema, or are too few."""


class SandboxError(SetupError):
    """This system cannot isolate code that a model writes, or the sandbox has lost its workers."""


class SavedStateError(SetupError):
    """A saved program is damaged, or refers to weights outside of its folder."""


class RunFolderError(SetupError):
    """The run folder belongs to another run, or cannot be read."""


class StoppedError(SGTError):
    """A budget is used up, or the user stopped the run. Its results so far are saved."""


class ProviderRefusedError(SGTError):
    """The actor's provider refuses every call: a wrong key, no such model, no credit."""


class EndpointError(SGTError):
    """The server behind a generator gave no reply, or refused trained weights."""


class TrainingError(SGTError):
    """A training stage failed."""


class DivergedError(TrainingError):
    """The loss or the weights of a stage are not finite."""


class NoPreferencePairsError(TrainingError):
    """No query has both a supplement that won and one that lost, so there are no preference pairs."""


class MainProcessError(SGTError):
    """The main process of several stopped, so this process stops too."""
