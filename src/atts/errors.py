"""Every exception that atts raises on purpose, as one tree.

- ``AttsError``
    - ``ConfigError``: the configuration or the command line is wrong
    - ``ProblemError``: a problem file is missing or malformed
    - ``CalibrationError``: a calibration or certificate is corrupt or made for something else
    - ``StoreError``: a run directory cannot be read or written
    - ``GradingError``: an answer cannot be graded
        - ``JudgeError``: the language model that judges gave no usable reply
    - ``EngineError``: a model could not serve one request
        - ``EmptyInputError``: there is nothing to continue or to score
        - ``TokenIdError``: a token id is outside the model's vocabulary
        - ``ContextLengthError``: the chain has outgrown the model's context
        - ``RequestRefusedError``: a server refuses the request, and would refuse it again
        - ``EngineUnavailableError``: a passing condition; worth another try
            - ``EngineConnectionError``: no server there, or the connection broke
            - ``EngineTimeoutError``: a server took too long; it may hang
            - ``EngineBusyError``: a server has no capacity now, and may say until when
            - ``EngineServerError``: a server failed inside
            - ``EngineReplyError``: a server's reply is not what was asked for
        - ``EngineGoneError``: an engine is gone for good, or was waited for in vain
    - ``ServerError``: a model server cannot be started or stopped
    - ``BusyError``: as much waits already as may wait
    - ``RequestError``: a request to ``atts serve`` cannot be answered

A message says what was wrong, where, and what to do about it.
"""


class AttsError(Exception):
    """The root of the tree: catch this to catch every expected failure."""


class ConfigError(AttsError):
    """The configuration or the command line is wrong; nothing has been started."""

    def __init__(self, found: str, *, mend: str = "") -> None:
        """Say what is wrong.

        Args:
            found: what was wrong, and where.
            mend: what to do about it, where ``found`` does not say so; the message ends with it.
        """
        super().__init__(f"{found}; {mend}" if mend else found)
        self.found = found
        self.mend = mend


class ProblemError(AttsError):
    """A problem file is missing, empty or malformed."""


class CalibrationError(AttsError):
    """A calibration or a certificate is corrupt, or was made for another configuration."""


class StoreError(AttsError):
    """A run directory cannot be read, written or resumed."""


class GradingError(AttsError):
    """An answer cannot be graded."""


class JudgeError(GradingError):
    """The language model that extracts or judges answers gave no usable reply."""


class EngineError(AttsError):
    """A model could not serve one request; other requests go on."""


class EmptyInputError(EngineError):
    """There is nothing to continue, or no token to score."""


class TokenIdError(EngineError):
    """A token id is outside the model's vocabulary."""


class ContextLengthError(EngineError):
    """The chain has outgrown the model's context window."""


class EngineUnavailableError(EngineError):
    """The engine cannot serve the request now; the same request may succeed later."""

    retry_after: float | None = None
    """Seconds that the server asked to wait, if it did."""


class RequestRefusedError(EngineError):
    """A server refuses the request, and would refuse it again."""


class EngineConnectionError(EngineUnavailableError):
    """There is no server at the address, or the connection broke before the reply was whole."""


class EngineTimeoutError(EngineUnavailableError):
    """A server took longer than ``timeout_seconds``; it may hang."""


class EngineBusyError(EngineUnavailableError):
    """A server has no capacity for the request now."""


class EngineServerError(EngineUnavailableError):
    """A server failed inside, with a status of 500 or above."""


class EngineReplyError(EngineUnavailableError):
    """A server's reply is not JSON, or lacks what was asked for."""


class EngineGoneError(EngineError):
    """An engine has died, or has not answered for ``limits.patience_seconds``: the run ends."""


class ServerError(AttsError):
    """A model server cannot be started or stopped."""


class BusyError(AttsError):
    """As many chains wait already as may wait; the same question may be taken later."""


class RequestError(AttsError):
    """A request to ``atts serve`` cannot be answered; this is what its client is told."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        """Say what is wrong, as OpenAI's API does.

        Args:
            message: what was wrong, and what to do about it.
            status: of the HTTP reply.
            kind: of the error; of an engine that failed, the name of its class in this module.
            param: the parameter that it is about.
            code: a name for the fault.
            retry_after: seconds after which another try may go well.
        """
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after = retry_after


def is_passing(error: str | None) -> bool:
    """Whether what a failed chain has on record, ``TYPE: MESSAGE``, is a passing condition.

    >>> is_passing("EngineConnectionError: no server"), is_passing("ValueError: a bug")
    (True, False)
    """
    return (error or "").partition(":")[0] in _names(EngineUnavailableError)


def _names(kind: type[Exception]) -> set[str]:
    return {kind.__name__}.union(*map(_names, kind.__subclasses__()))
