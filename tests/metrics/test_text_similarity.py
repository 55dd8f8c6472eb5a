import pytest
import torch
from torch.nn import functional as F

from scan_lightning.metrics.similarity import check_similarity, text_similarity


def test_text_similarity_equals_loops_over_words() -> None:
    generator = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(9, 5, generator=generator) + 1, dim=-1)
    owners = torch.tensor([0, 0, 1, 2, 2, 2, 3, 0, 3])
    cosines = torch.empty(4, 4, dtype=torch.float64)
    for one in range(4):
        for other in range(4):
            pairs = [
                float(features[i].double() @ features[j].double())
                for i in range(9)
                for j in range(9)
                if owners[i] == one and owners[j] == other
            ]
            cosines[one, other] = max(pairs)
    floor = sum(float(cosines[i, j]) for i in range(4) for j in range(4) if i != j) / 12
    expected = ((cosines - floor) / (1 - floor)).clamp(0, 1).fill_diagonal_(1)
    found = text_similarity(features, owners, 4)
    assert torch.allclose(found, expected, atol=1e-7)
    assert 0 < found[0, 1] < 1 or 0 < found[2, 3] < 1
    check_similarity(found, 4)


def test_text_similarity_is_symmetric_and_counts_unrelated_words_nothing() -> None:
    # As CLIP's texts do, all lie close together; the first two closer than the others.
    features = F.normalize(torch.tensor([[3.0, 1, 0, 0], [3, 0.9, 0.1, 0], [3, -1, 1, 0], [3, -1, -1, 1]]), dim=-1)
    assert (features @ features.T).min() > 0.5
    found = text_similarity(features, torch.arange(4), 4)
    assert torch.equal(found, found.T)
    assert found[0, 1] > 0.8
    assert found[0, 2] == found[0, 3] == 0


@pytest.mark.parametrize("count", [1, 3])
def test_text_similarity_of_equal_words_is_the_unit_matrix(count: int) -> None:
    found = text_similarity(torch.ones(count, 1), torch.arange(count), count)
    assert torch.equal(found, torch.eye(count, dtype=torch.float64))
