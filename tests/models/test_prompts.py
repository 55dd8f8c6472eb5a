import pytest

from scan_lightning.models.prompts import VILD_TEMPLATES, TemplateSet, templates


@pytest.mark.parametrize(("name", "count"), [("vild", 14), ("imagenet", 80), ("single", 1)])
def test_templates_count_and_place(name: TemplateSet, count: int) -> None:
    found = templates(name)
    assert len(set(found)) == count
    assert all(template.count("{}") == 1 and "sky" in template.format("sky") for template in found)


def test_templates_single_is_the_plain_photo() -> None:
    assert templates("single") == ("a photo of a {}.",) == VILD_TEMPLATES[:1]


def test_templates_unknown_set_raises() -> None:
    with pytest.raises(ValueError, match="templates: expected 'vild', 'imagenet' or 'single', got 'vlid'"):
        templates("vlid")  # type: ignore[arg-type]
