import numpy as np

from r1lab.analysis.expert_load import expert_load_figure, plot_expert_load, read_expert_load

LINES = "step,layer,expert_0,expert_1\n1,0,0.5,1.5\n1,3,1,1\n2,0,0.2,1.8\n2,3,1,1\n"


def test_a_panel_a_layer(tmp_path):
    (tmp_path / "expert_load.csv").write_text(LINES)
    figure = expert_load_figure(read_expert_load(tmp_path))
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["layer 0: MaxVio 0.80 at the end", "layer 3: MaxVio 0.00 at the end"]
    drawn = figure.axes[0].collections[0].get_array()
    np.testing.assert_allclose(np.asarray(drawn).reshape(2, 2), [[0.5, 0.2], [1.5, 1.8]])
    assert plot_expert_load(tmp_path) == tmp_path / "expert_load.png" and (tmp_path / "expert_load.png").is_file()


def test_nothing_to_draw(tmp_path):
    assert read_expert_load(tmp_path) is None and plot_expert_load(tmp_path) is None
