import pytest

from spadecli.core.errors import UserError
from spadecli.core.labelspace import LabelSpace
from spadecli.segmenter.class_mapping import channel_table, read_mapping

OURS = LabelSpace(name="ours", classes=("sky", "car", "void"), unknown="void")
CLOSED = LabelSpace(name="closed", classes=("sky", "car"))


def mapping(tmp_path, text):
    path = tmp_path / "map.toml"
    path.write_text(text)
    return read_mapping(path)


def test_names_and_numbers_and_the_rest_is_unknown(tmp_path):
    read = mapping(tmp_path, '[classes]\nheaven = "sky"\n"2" = "car"\n')
    space, table = channel_table("model", ["heaven", "road", "automobile"], read, OURS)
    assert space == OURS
    assert table.tolist() == [0, 2, 1]


def test_classes_of_the_same_name_go_together_without_a_mapping():
    _, table = channel_table("model", ["Car", "road", "SKY"], None, OURS)
    assert table.tolist() == [1, 2, 0]


def test_a_mapping_names_its_label_space_by_recipe(tmp_path):
    read = mapping(tmp_path, 'recipe = "camvid"\n[classes]\nroad = "road"\n')
    space, table = channel_table("model", ["road", "moon"], read, None)
    assert space.name == "camvid"
    assert [space.classes[c].name for c in table] == ["road", "unlabelled"]


def test_the_rest_may_have_a_class_of_its_own(tmp_path):
    read = mapping(tmp_path, 'rest = "car"\n[classes]\nheaven = "sky"\n')
    assert channel_table("model", ["heaven", "road"], read, CLOSED)[1].tolist() == [0, 1]


def test_every_mistake_is_listed(tmp_path):
    read = mapping(tmp_path, '[classes]\nheavn = "sky"\n"9" = "car"\nroad = "cars"\n')
    with pytest.raises(UserError, match="do not fit label space 'closed'") as e:
        channel_table("model", ["heaven", "road"], read, CLOSED)
    text = "\n".join(e.value.problems)
    assert "did you mean 'heaven'" in text
    assert "'9' is not a class of the model" in text
    assert "did you mean 'car'" in text
    assert "no unknown class for those that are not listed" in text


def test_nothing_in_common_and_no_label_space():
    with pytest.raises(UserError, match="do not fit") as e:
        channel_table("model", ["LABEL_0", "LABEL_1"], None, OURS)
    assert "no class of the model is named like" in e.value.problems[0]
    with pytest.raises(UserError, match="the label space of its classes is not known"):
        channel_table("model", ["sky"], None, None)


@pytest.mark.parametrize("text", ["classes = 3", "[classes]\na = 1", "colour = 2", "= 1", "[input]\nstd = 1"])
def test_a_bad_file_is_named(tmp_path, text):
    with pytest.raises(UserError, match=r"map\.toml"):
        mapping(tmp_path, text)
    with pytest.raises(UserError, match="no such class mapping"):
        read_mapping(tmp_path / "none.toml")
