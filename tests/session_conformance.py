"""What every Session does, whichever engine is behind it.

A test module for one engine subclasses `SessionConformance` and provides the fixture `open_session`: a callable that
opens a session on the network of tests/data/tiny_classifier.onnx, with `EngineSettings` and `reuse_outputs` given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edgeopt.bundle import EngineSettings
from edgeopt.errors import DataError, EdgeoptError
from edgeopt.runtime import Session


def images(count: int, seed: int = 0) -> np.ndarray:
    """Input of the tiny classifier: (count, 3, 8, 8) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)


def expected(image: np.ndarray) -> np.ndarray:
    """What the tiny classifier answers: eight times the mean of each channel, (count, 3) float32."""
    return (image.mean(axis=(2, 3)) / 255 * 8).astype(np.float32)


class SessionConformance:
    """Subclass it, name the class Test…, and provide the fixture `open_session`."""

    dynamic_batch = True
    """Whether one session takes batches of any size."""

    @pytest.fixture
    def open_session(self) -> Callable[..., Session]:
        raise NotImplementedError

    @pytest.fixture
    def session(self, open_session: Callable[..., Session]) -> Iterator[Session]:
        with open_session() as session:
            yield session

    def test_says_what_it_takes_and_gives(self, session: Session) -> None:
        (image,), (scores,) = session.inputs, session.outputs
        assert (image.name, image.dtype, image.shape[1:]) == ("image", "uint8", (3, 8, 8))
        assert (scores.name, scores.dtype, scores.shape[1:]) == ("scores", "float32", (3,))
        assert isinstance(session.thread_safe, bool)

    def test_computes(self, session: Session) -> None:
        image = images(1)
        outputs = session.run({"image": image})
        assert list(outputs) == ["scores"]
        assert outputs["scores"].dtype == np.float32
        np.testing.assert_allclose(outputs["scores"], expected(image), rtol=1e-4)

    def test_reads_an_array_that_was_refilled(self, session: Session) -> None:
        image = images(1)
        session.run({"image": image})
        for seed in (1, 2):
            image[:] = images(1, seed)
            np.testing.assert_allclose(session.run({"image": image})["scores"], expected(image), rtol=1e-4)

    def test_takes_new_arrays(self, session: Session) -> None:
        for seed in range(4):
            image = images(1, seed)
            np.testing.assert_allclose(session.run({"image": image})["scores"], expected(image), rtol=1e-4)

    @pytest.mark.parametrize("name", ["strided", "read-only", "Fortran"])
    def test_takes_any_memory_layout_again_and_again(self, session: Session, name: str) -> None:
        image = images(1)
        view = {
            "strided": np.repeat(image, 2, axis=3)[..., ::2],
            "read-only": np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape),
            "Fortran": np.asfortranarray(image),
        }[name]
        for _ in range(3):
            np.testing.assert_allclose(session.run({"image": view})["scores"], expected(image), rtol=1e-4)
        if view.flags.writeable:
            view[:] = images(1, seed=5)
            np.testing.assert_allclose(session.run({"image": view})["scores"], expected(view), rtol=1e-4)

    def test_results_are_the_callers_own(self, session: Session) -> None:
        first = session.run({"image": images(1, 0)})["scores"]
        kept = first.copy()
        session.run({"image": images(1, 1)})
        np.testing.assert_array_equal(first, kept)
        first[:] = -1
        np.testing.assert_allclose(session.run({"image": images(1, 2)})["scores"], expected(images(1, 2)), rtol=1e-4)

    def test_reused_results_hold_until_the_next_run(self, open_session: Callable[..., Session]) -> None:
        with open_session(reuse_outputs=True) as session:
            image = images(1)
            for seed in range(3):
                image[:] = images(1, seed)
                np.testing.assert_allclose(session.run({"image": image})["scores"], expected(image), rtol=1e-4)

    def test_batches_of_changing_size(self, open_session: Callable[..., Session]) -> None:
        if not self.dynamic_batch:
            pytest.skip("this engine has a fixed batch size")
        with open_session(reuse_outputs=True) as session:
            seen = []
            for count in (1, 4, 2, 4, 1):
                image = images(count, seed=count)
                scores = session.run({"image": image})["scores"]
                np.testing.assert_allclose(scores, expected(image), rtol=1e-4)
                seen.append(scores)
            for scores in seen:  # memory of an earlier size was not pulled away
                assert np.isfinite(scores).all()

    def test_a_fixed_batch(self, open_session: Callable[..., Session]) -> None:
        with open_session(EngineSettings(batch=2)) as session:
            assert session.inputs[0].shape == (2, 3, 8, 8)
            np.testing.assert_allclose(session.run({"image": images(2)})["scores"], expected(images(2)), rtol=1e-4)
            with pytest.raises(DataError, match=r"\(2, 3, 8, 8\).*\(1, 3, 8, 8\)"):
                session.run({"image": images(1)})

    def test_threads(self, open_session: Callable[..., Session]) -> None:
        with open_session(EngineSettings(threads=1)) as session:
            np.testing.assert_allclose(session.run({"image": images(1)})["scores"], expected(images(1)), rtol=1e-4)

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({}, "takes 'image', and was given nothing"),
            ({"picture": images(1)}, "takes 'image', and was given 'picture'"),
            ({"image": images(1), "more": images(1)}, "'image', 'more'"),
            ({"image": images(1).astype(np.float32)}, r"must be uint8 .* is float32"),
            ({"image": images(1)[0]}, r"3, 8, 8\).* is uint8 of shape \(3, 8, 8\)"),
            ({"image": images(1)[..., :4]}, r"3, 8, 8\).* is uint8 of shape \(1, 3, 8, 4\)"),
            ({"image": images(1)[:0]}, r"shape \(0, 3, 8, 8\)"),
            ({"image": [[1.0]]}, "must be a numpy array, and is a list"),
        ],
    )
    def test_refuses_wrong_inputs_and_goes_on(self, session: Session, inputs: dict, message: str) -> None:
        session.run({"image": images(1)})
        with pytest.raises(DataError, match=message):
            session.run(inputs)
        np.testing.assert_allclose(session.run({"image": images(1)})["scores"], expected(images(1)), rtol=1e-4)

    def test_a_closed_session_says_so(self, open_session: Callable[..., Session]) -> None:
        with open_session() as session:
            kept = session.run({"image": images(1)})["scores"]
        with pytest.raises(EdgeoptError, match="closed"):
            session.run({"image": images(1)})
        np.testing.assert_allclose(kept, expected(images(1)), rtol=1e-4)

    def test_closing_twice_is_harmless(self, open_session: Callable[..., Session]) -> None:
        with open_session() as session, session:
            pass
