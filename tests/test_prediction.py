from text_cls.prediction import levels_of


def test_levels_list_each_name_once():
    assert levels_of(["a", "a##x", "b", "b##x", "b##x##y"]) == [["a", "b"], ["x"], ["y"]]
    assert levels_of([]) == []
