"""Figures in one style: charts, diagrams, and ``show``, which puts one into a notebook."""

from .charts import (
    describe_history,
    draw_block_accuracy,
    draw_by_blocks,
    draw_class_goodness,
    draw_compare,
    draw_frontier,
    draw_goodness,
    draw_goodness_maps,
    draw_history,
    draw_images,
    draw_picture,
)
from .diagrams import (
    diagram_backprop,
    diagram_block,
    diagram_checkpointing,
    diagram_cka,
    diagram_ff,
    diagram_pipeline,
    diagram_seam,
    diagram_sff,
    draw_network,
    draw_timeline,
)
from .live import LiveHistory, Pace
from .style import (
    BLOCK_MARKERS,
    GREY,
    INK,
    OKABE_ITO,
    RULE_STYLE,
    WIDTH,
    RuleStyle,
    block_colours,
    course_style,
    display_data,
    end_labels,
    figure_data,
    image_html,
    ink,
    new_figure,
    number_marks,
    png,
    quick_png,
    rule_style,
    shortened,
    show,
    tint,
    with_alt,
)

__all__ = [
    "BLOCK_MARKERS", "GREY", "INK", "OKABE_ITO", "RULE_STYLE", "WIDTH", "LiveHistory", "Pace",
    "RuleStyle", "block_colours", "course_style", "describe_history", "diagram_backprop",
    "diagram_block", "diagram_checkpointing", "diagram_cka", "diagram_ff", "diagram_pipeline",
    "diagram_seam", "diagram_sff", "display_data", "draw_block_accuracy", "draw_by_blocks",
    "draw_class_goodness", "draw_compare", "draw_frontier", "draw_goodness",
    "draw_goodness_maps", "draw_history", "draw_images", "draw_network", "draw_picture",
    "draw_timeline", "end_labels", "figure_data", "image_html", "ink", "new_figure",
    "number_marks", "png", "quick_png", "rule_style", "shortened", "show", "tint", "with_alt",
]  # fmt: skip
