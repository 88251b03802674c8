"""mtjax: motion teachers and the video students that learn from them."""

__version__ = "0.1.0"
