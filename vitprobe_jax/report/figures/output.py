"""Figures as text and files: SVG that takes the colours of the page around it, PNG and SVG files that stand alone."""

import base64
import hashlib
import io
import re

import matplotlib
from etils import epath
from matplotlib.figure import Figure
from PIL import Image

from vitprobe_jax.atomic import write_whole
from vitprobe_jax.report.figures.style import INK

PNG_DPI = 200
_JPEG_QUALITY = 80
_WITHOUT_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_EMBEDDED_PNG = re.compile(r'href="data:image/png;base64,([^"]*)"')


def svg(figure: Figure, name: str = "") -> str:
    """The figure as one `<svg>` element to stand inside an HTML page; the same figure and name give the same text.

    Its ground is transparent and its letters and axes have the colour of the text around it (`currentColor`), so that it
    can be read on light and dark pages. Letters are paths: it looks the same with any fonts. Ids are unique to the
    figure, and it refers to nothing outside itself. Photographs are embedded as JPEG.

    Args:
        figure: to draw.
        name: tells it from others on its page that look the same: ids hang on it.
    """
    text = _draw_svg(figure, "none").replace(INK, "currentColor")
    text = re.sub(r'\s+xmlns:xlink="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub("<!--.*?-->", "", text, flags=re.DOTALL)
    # A style sheet would reach all of the page; what it says is inherited from the root as well.
    text = re.sub(r"<defs>\s*<style[^>]*>[^<]*</style>\s*</defs>", "", text)
    text = text.replace("<svg ", '<svg style="stroke-linejoin: round; stroke-linecap: butt" ', 1)
    text = re.sub(r"\s*\n\s*", "\n", text)
    text = _EMBEDDED_PNG.sub(_as_jpeg, text).replace("image-rendering:crisp-edges;image-rendering:pixelated", "")
    referred = set(re.findall(r'(?:url\(|href=")#([^")]+)', text))
    own = "f" + hashlib.sha256(f"{name}\0{text}".encode()).hexdigest()[:10]
    text = re.sub(r' id="([^"]*)"', lambda found: f' id="{own}{found[1]}"' if found[1] in referred else "", text)
    return re.sub(r'(url\(|href=")#', rf"\g<1>#{own}", text)


def save(figure: Figure, folder: epath.PathLike, name: str) -> None:
    """Writes `NAME.png` (200 pixels an inch) and `NAME.svg` into a folder, each whole or not at all.

    Both stand on white ground. The folder is made if it is missing.

    Raises:
        OSError: the disk refuses.
    """
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{name}.svg", _draw_svg(figure, "white").encode())
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=PNG_DPI, facecolor="white", metadata={"Software": None})
    write_whole(folder / f"{name}.png", png.getvalue())


def _draw_svg(figure: Figure, ground: str) -> str:
    buffer = io.StringIO()
    # The salt makes ids depend on what is drawn alone.
    with matplotlib.rc_context({"svg.hashsalt": "vitprobe_jax", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", facecolor=ground, metadata=_WITHOUT_METADATA)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _as_jpeg(found: re.Match) -> str:
    """Opaque pictures as JPEG, a fifth of their size."""
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as picture:
        if "A" in picture.getbands() and picture.getchannel("A").getextrema()[0] < 255:
            return found[0]
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return f'href="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"'
