"""What all charts have in common: names stay as they are written, numbers as they are set."""

from __future__ import annotations

from gppf_d2.analysis.figures import new_figure, png_bytes, to_array


def test_names_are_no_formulas_and_numbers_of_logarithmic_axes_still_are() -> None:
    figure = new_figure(3, 2)
    axes = figure.add_subplot()
    axes.plot([1, 2], [1e-5, 1e4], label="$z_{$")
    axes.set(yscale="log", title="$y^{$", xlabel="$5 and $6")
    axes.set_xticks([1, 2], ["$x^{$", "$\\frac$"])
    axes.legend()
    assert to_array(figure).std() > 10 and png_bytes(figure, dpi=40)
    assert not any(label.get_parse_math() for label in axes.get_xticklabels())
    numbers = [label for label in axes.get_yticklabels() if "$" in label.get_text()]
    assert len(numbers) > 2 and all(label.get_parse_math() for label in numbers)
