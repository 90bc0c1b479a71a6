import pytest
from browser import assert_sound, chromium

from text_cls.html_page import POLICY, svg, tiles, write_page

HOSTILE = "</script><script>document.title='run'</script><!-- <img src=http://127.0.0.1:9/x onerror=alert(1)> 😀 ' \""


@pytest.fixture
def page(tmp_path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3))
    figure.subplots().barh(["灾害事故##地震", "其他"], [1, 2])

    def body():
        return f"<h1>试试</h1>{tiles([('90.10', HOSTILE)])}{svg(figure, HOSTILE)}<p id=out></p>"

    script = "function start() { document.getElementById('out').textContent = DATA.text; }"
    write_page(tmp_path / "page.html", HOSTILE, body, script=script, data={"text": HOSTILE})
    return tmp_path / "page.html"


def test_strangers_text_stays_text(page):
    with chromium(1280) as driver:
        driver.get(page.as_uri())
        assert driver.title.split() == HOSTILE.split()
        assert driver.find_element("id", "out").text.split() == HOSTILE.split()
        assert_sound(driver)


@pytest.mark.parametrize("width", [1280, 400])
def test_fits_the_window(page, width):
    with chromium(width) as driver:
        driver.get(page.as_uri())
        assert_sound(driver)
        assert "灾害事故##地震" in driver.find_element("css selector", "svg").text


def test_nothing_is_fetched(tmp_path):
    """The policy refuses a request even if a script of the page asks for one."""
    script = """
        function start() { fetch('http://127.0.0.1:9/').then(() => 0, () => 0);
        document.addEventListener('securitypolicyviolation', e => document.title = e.effectiveDirective); }
    """
    write_page(tmp_path / "page.html", "before", lambda: "", script=script)
    assert POLICY in (tmp_path / "page.html").read_text(encoding="utf-8")
    with chromium() as driver:
        driver.get((tmp_path / "page.html").as_uri())
        driver.implicitly_wait(5)
        assert driver.title == "connect-src"


def test_the_same_input_gives_the_same_bytes():
    from matplotlib.figure import Figure

    drawings = []
    for _ in range(2):
        figure = Figure()
        figure.subplots().plot([1, 2])
        drawings.append(svg(figure, "a line"))
    assert drawings[0] == drawings[1]
