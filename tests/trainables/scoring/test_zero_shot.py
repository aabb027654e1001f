import numpy as np
import pytest

from trainables.scoring.zero_shot import class_embeddings, finding_scores, pair_scores, zero_shot_scores

pytestmark = pytest.mark.kernels


@pytest.fixture
def prompts() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(n, 6)).astype(np.float32) for n in (3, 1, 5)]


@pytest.fixture
def joint() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(20, 6)).astype(np.float32)


def test_one_prompt_per_class_is_a_softmax_over_cosines(joint, prompts) -> None:
    single = [p[:1] for p in prompts]
    scores = zero_shot_scores(joint, single, logit_scale=7.0)
    for image, row in zip(joint, scores, strict=True):
        cosines = [p[0] @ image / np.linalg.norm(p[0]) / np.linalg.norm(image) for p in single]
        expected = np.exp(7 * np.array(cosines))
        assert row == pytest.approx(expected / expected.sum(), rel=1e-5)


def test_each_prompt_of_an_ensemble_has_one_vote(joint, prompts) -> None:
    longer = [p * np.linspace(0.1, 50, len(p))[:, None] for p in prompts]
    plain, scaled = (zero_shot_scores(joint, p, logit_scale=20.0) for p in (prompts, longer))
    assert plain == pytest.approx(scaled, abs=1e-6)


def test_class_embeddings_have_unit_length(prompts) -> None:
    assert np.linalg.norm(class_embeddings(prompts), axis=1) == pytest.approx(np.ones(3))


def test_logit_scale_moves_probabilities_and_no_prediction(joint, prompts) -> None:
    soft, sharp = (zero_shot_scores(joint, prompts, logit_scale=scale) for scale in (1.0, 100.0))
    assert (soft.argmax(1) == sharp.argmax(1)).all()
    assert (sharp.max(1) > soft.max(1)).all()
    assert sharp.sum(1) == pytest.approx(np.ones(20))


def test_pairs_ask_each_class_by_itself_and_divide_by_the_sum(joint, prompts) -> None:
    contrary = [p[::-1] * 0.3 + 1.0 for p in prompts]
    scores = pair_scores(joint, prompts, contrary, logit_scale=3.0)
    finding, against = class_embeddings(prompts), class_embeddings(contrary)
    for image, row in zip(joint / np.linalg.norm(joint, axis=1, keepdims=True), scores, strict=True):
        each = np.exp(3 * finding @ image)
        holds = each / (each + np.exp(3 * against @ image))
        assert row == pytest.approx(holds / holds.sum(), rel=1e-5)


def test_pairs_do_not_underflow(joint, prompts) -> None:
    contrary = [-p for p in prompts]
    scores = pair_scores(joint, prompts, contrary, logit_scale=1e4)
    assert np.isfinite(scores).all()
    assert scores.sum(1) == pytest.approx(np.ones(20))


def test_a_pair_whose_sides_are_equal_says_nothing(joint, prompts) -> None:
    scores = pair_scores(joint, prompts, prompts, logit_scale=50.0)
    assert scores == pytest.approx(np.full((20, 3), 1 / 3))


def test_the_score_of_a_finding_does_not_depend_on_the_others(joint, prompts) -> None:
    contrary = [p[::-1] * 0.3 + 1.0 for p in prompts]
    scores = finding_scores(joint, prompts, contrary, logit_scale=3.0)
    images = joint / np.linalg.norm(joint, axis=1, keepdims=True)
    for_finding, against = np.exp(3 * images @ class_embeddings(prompts).T), class_embeddings(contrary)
    assert scores == pytest.approx(for_finding / (for_finding + np.exp(3 * images @ against.T)), rel=1e-5)
    alone = finding_scores(joint, prompts[1:2], contrary[1:2], logit_scale=3.0)
    assert alone[:, 0] == pytest.approx(scores[:, 1])
    assert pair_scores(joint, prompts, contrary, logit_scale=3.0) == pytest.approx(
        scores / scores.sum(axis=1, keepdims=True)
    )
