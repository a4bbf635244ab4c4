"""Reports in a real browser: Debian's chromium, without a screen, from `file://`."""

import io
import json
import shutil
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from fewlabel.engine import Compute
from fewlabel.model import find_model
from fewlabel.predict import segment_files
from fewlabel.report.page import write_report
from fewlabel.train_run import Means, train_run
from tests.band_model import BANDS, band_model, box_grid, head_at

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

from selenium.common.exceptions import WebDriverException  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium with its driver is here"),
    # Selenium leaves the pipes of the driver to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--window-size=1300,900",
    "--hide-scrollbars",
)
PATIENCE_S = 120
MALC = Path(__file__).parents[3] / "shared" / "data" / "malc"


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    except WebDriverException as problem:
        pytest.skip(f"chromium does not start here: {problem.msg}")
    driver.set_page_load_timeout(5 * PATIENCE_S)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Three heads, the second cut off, and a training run."""
    folder = tmp_path_factory.mktemp("cohort")
    head = head_at(box_grid((3.0, 3.0, 3.0), 192.0))
    for name, first in (("sub-01", 0), ("sub-02", 28), ("sub-03", 0)):
        data = head.data[:, :, first:].astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(data, head.grid.affine), folder / f"{name}_T1w.nii.gz")
    model = band_model(folder / "model")
    scans = sorted(folder.glob("*_T1w.nii.gz"))
    for outcome in segment_files(scans, model, out=folder / "out", compute=Compute(threads=1)):
        assert outcome.error is None
    run = folder / "run"
    run.mkdir()
    (run / "settings.yaml").write_text("recipe: supervised\n")
    steps = "".join(f"train,{n},total,{1 / n}\n" for n in range(1, 50))
    (run / "history.csv").write_text("stage,step,quantity,value\n" + steps)
    (run / "validation.csv").write_text(
        "case,head,structure,dice\n"
        + "".join(f"sub-{n},toy,{s},{0.5 + n / 20}\n" for n in range(6) for s in ("A", "B"))
    )
    return write_report([folder / "out", run], folder / "report.html")


@pytest.fixture
def opened(browser, page):
    browser.get_log("performance"), browser.get_log("browser")
    browser.get(page.as_uri())
    wait_for(browser, "document.body.dataset.ready")
    return browser


def wait_for(browser, what):
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found = browser.execute_script(f"return {what}")
        if found:
            return found
        time.sleep(0.05)
    pytest.fail(f"after {PATIENCE_S} s there is no {what}: {browser.get_log('browser')}")


def names(browser, expected):
    """The cases in the order in which they are shown; waits until they are the expected ones."""
    script = "return [...document.querySelectorAll('details.case')].map(c => c.dataset.id)"
    end = time.monotonic() + PATIENCE_S
    while (shown := browser.execute_script(script)) != expected and time.monotonic() < end:
        time.sleep(0.05)
    return shown


def find(browser, selector):
    return browser.find_element("css selector", selector)


def open_viewer(browser, case):
    card = f"details.case[data-id={case}]"
    find(browser, f"{card} summary").click()
    wait_for(browser, f"document.querySelector('{card} .open-viewer')")
    find(browser, f"{card} .open-viewer").click()
    wait_for(browser, "document.querySelector('dialog')?.dataset.ready")


def pixels(element):
    image = Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB")
    return np.asarray(image).astype(int)


def colored(image, color):
    """Pixels of about the hue of a color: what it adds to gray."""
    wanted = np.array(color) - np.mean(color)
    seen = image - image.mean(axis=2, keepdims=True)
    strength = seen @ wanted / np.linalg.norm(wanted)
    off = np.linalg.norm(seen - strength[:, :, None] * wanted / np.linalg.norm(wanted), axis=2)
    return (strength > 30) & (off < 0.35 * strength)


def complaints(browser):
    return [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def requests(browser):
    told = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [one["params"] for one in told if one["method"] == "Network.requestWillBeSent"]
    return {one["request"]["url"].split(":")[0] for one in sent}


def test_search_sort_and_filter_work(opened):
    assert names(opened, ["sub-02", "sub-01", "sub-03"]) == ["sub-02", "sub-01", "sub-03"]

    find(opened, "#search").send_keys("sub-03")
    assert names(opened, ["sub-03"]) == ["sub-03"]
    find(opened, "#search").clear()
    opened.execute_script("document.querySelector('#search').dispatchEvent(new Event('input'))")
    find(opened, "#sort").send_keys("name")
    assert names(opened, ["sub-01", "sub-02", "sub-03"]) == ["sub-01", "sub-02", "sub-03"]
    find(opened, "#only-warned").click()
    assert names(opened, ["sub-02"]) == ["sub-02"]
    assert complaints(opened) == []


def test_a_table_sorts_by_the_column_that_is_clicked(opened):
    find(opened, "details.case summary").click()
    first = "document.querySelector('details.case table tbody td')?.textContent"
    assert wait_for(opened, first) == "Ball"

    heading = find(opened, "details.case th:nth-child(2) button")  # cm3: the smallest first
    heading.click()
    smallest = wait_for(opened, first)
    heading.click()

    assert wait_for(opened, f"({first}) !== {smallest!r} && {first}")


def test_the_viewer_draws_scan_and_labels_and_toggles_structures(opened):
    open_viewer(opened, "sub-01")
    canvas = find(opened, "dialog canvas")

    def drawn(until):
        """WebGL draws when it gets around to it."""
        end = time.monotonic() + PATIENCE_S
        while True:
            image = pixels(canvas)
            if until(image) or time.monotonic() > end:
                return image

    ball = BANDS.labels[0].color
    both = drawn(lambda image: colored(image, ball).sum() > 2000)
    assert colored(both, ball).sum() > 2000
    opened.execute_script(
        "document.querySelector('dialog .viewer-list input[type=checkbox]').click()"
    )
    without = drawn(lambda image: colored(image, ball).sum() < 200)
    assert colored(without, ball).sum() < 200
    gray = (without.max(axis=2) - without.min(axis=2) < 12) & (without.mean(axis=2) > 40)
    assert gray.sum() > 2000  # the scan shows where the labels were
    assert complaints(opened) == []


def test_the_structure_under_the_cursor_is_named(opened):
    open_viewer(opened, "sub-01")

    actions = webdriver.ActionChains(opened)
    canvas = find(opened, "dialog canvas")
    actions.move_to_element_with_offset(canvas, -canvas.size["width"] // 3, 0).perform()
    actions.move_by_offset(2, 2).perform()

    told = wait_for(opened, "document.querySelector('dialog .where').textContent")
    assert "mm)" in told


def test_the_report_of_a_run_has_curves_boxes_and_tables(opened):
    text = find(opened, "main").text

    assert "Run run" in text
    assert "Held-out scans, worst first" in text
    assert opened.execute_script("return document.querySelectorAll('main svg polyline').length") > 0
    assert opened.execute_script("return document.querySelectorAll('main svg rect').length") > 1


def test_no_request_leaves_the_page(browser, page):
    browser.get_log("performance")
    browser.get(page.as_uri())
    wait_for(browser, "document.body.dataset.ready")
    open_viewer(browser, "sub-01")

    assert requests(browser) <= {"file", "data", "blob"}
    assert complaints(browser) == []


def test_evil_names_do_nothing_in_a_browser(browser, page, tmp_path):
    folder = tmp_path / "evil"
    shutil.copytree(Path(page).parent / "out", folder)
    change = "document.title='evil'"
    evil = f'</script><script>{change}</script><img src=x onerror="{change}">'
    for record in folder.glob("*_dseg.json"):
        said = json.loads(record.read_text())
        said["warnings"] = [evil]
        record.write_text(json.dumps(said))
    browser.get(write_report([folder], tmp_path / "evil.html").as_uri())
    wait_for(browser, "document.body.dataset.ready")
    find(browser, "details.case summary").click()
    wait_for(browser, "document.querySelector('.warnings')")

    assert browser.title == "3 segmented scans"
    assert evil in find(browser, ".warnings").text


@pytest.mark.skipif(not MALC.is_dir(), reason="the real scans of ../shared/data are not here")
def test_a_report_of_real_brains_and_of_a_real_training_run(browser, tmp_path):
    scans = sorted(MALC.glob("sub-*/anat/*_T1w.nii.gz"))[:2]
    model = find_model("adult-aseg32")
    for outcome in segment_files(scans, model, out=tmp_path / "out", compute=Compute(threads=2)):
        assert outcome.error is None
    settings = Path(__file__).parents[2] / "configs" / "toy.yaml"
    changes = ("steps=4", "validate_every=2")
    train_run(settings, tmp_path / "run", changes=changes, means=Means(cache=tmp_path / "cache"))
    page = write_report([tmp_path / "out", tmp_path / "run"], tmp_path / "report.html")
    assert page.stat().st_size < 8e6

    browser.get_log("performance"), browser.get_log("browser")
    browser.get(page.as_uri())
    wait_for(browser, "document.body.dataset.ready")
    case = browser.execute_script("return document.querySelector('details.case').dataset.id")
    open_viewer(browser, case)

    end = time.monotonic() + PATIENCE_S
    canvas = find(browser, "dialog canvas")
    while ((image := pixels(canvas)).mean(axis=2) > 40).sum() < 5000 and time.monotonic() < end:
        time.sleep(0.1)
    assert (image.mean(axis=2) > 40).sum() > 5000  # a brain
    assert (image.max(axis=2) - image.min(axis=2) > 40).sum() > 2000  # and colors of structures
    assert "Run run" in browser.execute_script("return document.querySelector('main').textContent")
    assert requests(browser) <= {"file", "data", "blob"}
    assert complaints(browser) == []
