"""Publisher of whole tensors on every learner rank: the first sends what all gather."""

from collections.abc import Callable, Iterator

from torch import Tensor

from megatron_rl.protocols import PublishReport, WeightPublisher


class GatheringPublisher:
    """PolicyPublisher made of a WeightPublisher, which the first rank has."""

    def __init__(
        self,
        publisher: WeightPublisher | None,
        weights: Callable[[], Iterator[tuple[str, Tensor]]],
    ) -> None:
        """Prepare.

        Args:
            publisher: of the first rank; None on the others.
            weights: gathers (Hugging Face name, whole tensor), all ranks together.
        """
        self._publisher = publisher
        self._weights = weights

    def pending(self) -> bool:
        """Return whether a server waits for the current version; False but on the first rank."""
        return self._publisher is not None and self._publisher.pending()

    def publish(self, *, version: int) -> PublishReport | None:
        """Gather the weights, and send them from the first rank."""
        weights = self._weights()
        if self._publisher is not None:
            return self._publisher.publish(weights, version=version)
        for _ in weights:
            pass
        return None

    def close(self) -> None:
        """Release the servers."""
        if self._publisher is not None:
            self._publisher.close()
