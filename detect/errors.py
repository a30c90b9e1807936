"""The errors that a user can cause and mend, as a tree.

DetectError                 one line on stderr and exit code 2; any other exception is a bug and keeps its traceback
├── CocoError               labels that cannot be read, or (strict) an annotation that cannot be used
├── ResizeError             a resize rule that does not parse
├── AnchorFileError         an anchors file that cannot be read, or a name that is not known
├── CatalogError            a detector that is not known, or whose description is wrong
├── ImageError              an image that is missing, broken or not as its annotations say
├── ConfigError             an option, or a field of a configuration file, with a wrong value
├── FitError                data from which the requested anchors cannot be fitted
├── ConvertError            anchors or weights that a framework cannot hold, or that do not match their description
├── TrainingError           a run that cannot go on, or a checkpoint that cannot be read or resumed
├── ExportError             a model that cannot be exported, or whose export computes something else
├── OutputError             a result that cannot be written to the requested place
└── MissingExtraError       an optional package that is not installed; the message names the extra
"""


class DetectError(Exception):
    """Base of all errors that the user can mend."""


class CocoError(DetectError, ValueError):
    """Labels that cannot be read, or an annotation that cannot be used."""


class ResizeError(DetectError, ValueError):
    """A resize rule that does not parse."""


class AnchorFileError(DetectError, ValueError):
    """An anchors file that cannot be read, or a name that is not known."""


class CatalogError(DetectError, ValueError):
    """A detector that is not known, or whose description is wrong."""


class ImageError(DetectError, ValueError):
    """An image that is missing, broken or not as its annotations say."""


class ConfigError(DetectError, ValueError):
    """An option, or a field of a configuration file, with a wrong value."""


class FitError(DetectError, ValueError):
    """Data from which the requested anchors cannot be fitted."""


class ConvertError(DetectError, ValueError):
    """Anchors or weights that a framework cannot hold, or that do not match their description."""


class TrainingError(DetectError, RuntimeError):
    """A training run that cannot go on, or a checkpoint that cannot be read or resumed."""


class ExportError(DetectError, RuntimeError):
    """A model that cannot be exported, or whose export computes something else."""


class OutputError(DetectError, OSError):
    """A result that cannot be written to the requested place."""


class MissingExtraError(DetectError, ImportError):
    """An optional package that is not installed."""
