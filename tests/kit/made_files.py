"""Small files of many formats, made by hand so that no library that reads them also wrote them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

__all__ = ["docx", "epub", "opendocument", "pdf_of", "pptx", "xlsx", "zipped"]

_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_A = "http://schemas.openxmlformats.org/drawingml/2006/main"
_S = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_R = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_CORE = (
    '<p:coreProperties xmlns:p="x" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:dcterms="y">'
    "<dc:title>{title}</dc:title><dc:language>de-CH</dc:language>"
    "<dcterms:modified>2024-05-31T10:00:00Z</dcterms:modified></p:coreProperties>"
)


def zipped(members: Mapping[str, str | bytes]) -> bytes:
    """Return a zip file with these members."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def docx(text: str, title: str = "", *, before: str = "") -> bytes:
    """Return a text document with one paragraph, a footnote and a tab."""
    body = f'{before}<w:document xmlns:w="{_W}"><w:body><w:p><w:r><w:t>{text}</w:t><w:tab/><w:t>end</w:t></w:r></w:p>'
    body += "<w:p><w:r><w:delText>deleted</w:delText></w:r></w:p></w:body></w:document>"
    note = f'<w:footnotes xmlns:w="{_W}"><w:p><w:t>a footnote</w:t></w:p></w:footnotes>'
    members = {"word/document.xml": body, "word/footnotes.xml": note}
    return zipped(members | {"docProps/core.xml": _CORE.format(title=title)})


def pptx(slides: list[str], note: str) -> bytes:
    """Return a presentation; the note belongs to the first slide."""
    members = {
        f"ppt/slides/slide{at}.xml": f'<p:sld xmlns:p="p" xmlns:a="{_A}"><a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:sld>'
        for at, text in enumerate(slides, 1)
    }
    members["ppt/notesSlides/notesSlide1.xml"] = f'<n xmlns:a="{_A}"><a:p><a:t>{note}</a:t></a:p></n>'
    return zipped({"ppt/presentation.xml": "<x/>"} | members)


def xlsx() -> bytes:
    """Return a workbook: a shared and an inline string, a number and a date."""
    sheet = (
        f'<worksheet xmlns="{_S}"><sheetData><row><c t="s"><v>0</v></c><c t="inlineStr"><is><t>inline</t></is></c>'
        '<c><v>4.5</v></c><c s="1"><v>45443</v></c></row></sheetData></worksheet>'
    )
    return zipped(
        {
            "xl/workbook.xml": f'<workbook xmlns="{_S}" xmlns:r="{_R}"><sheets><sheet name="Ledger" sheetId="1" r:id="r1"/>'
            "</sheets></workbook>",
            "xl/_rels/workbook.xml.rels": '<R><Relationship Id="r1" Target="worksheets/sheet1.xml"/></R>',
            "xl/sharedStrings.xml": f'<sst xmlns="{_S}"><si><t>shared</t></si></sst>',
            "xl/styles.xml": '<styleSheet><cellXfs><xf numFmtId="0"/><xf numFmtId="14"/></cellXfs></styleSheet>',
            "xl/worksheets/sheet1.xml": sheet,
        }
    )


def opendocument(text: str, kind: str = "text") -> bytes:
    """Return an OpenDocument file."""
    content = (
        f'<o:content xmlns:o="o" xmlns:text="t"><text:p>{text}<text:s text:c="3"/>x</text:p></o:content>'
    )
    meta = (
        '<o:m xmlns:o="o" xmlns:dc="d"><dc:title>Open</dc:title><dc:date>2023-01-02T00:00:00</dc:date></o:m>'
    )
    mime = f"application/vnd.oasis.opendocument.{kind}"
    return zipped({"mimetype": mime, "content.xml": content, "meta.xml": meta})


def epub(chapters: list[str], title: str, *, before: str = "<!DOCTYPE html>") -> bytes:
    """Return a book; each chapter is the body of a page."""
    items = "".join(f'<item id="c{at}" href="ch%20{at}.xhtml"/>' for at in range(len(chapters)))
    spine = "".join(f'<itemref idref="c{at}"/>' for at in range(len(chapters)))
    opf = f'<package xmlns:dc="d"><metadata><dc:title>{title}</dc:title><dc:language>fr</dc:language></metadata>'
    opf += f"<manifest>{items}</manifest><spine>{spine}</spine></package>"
    pages = {
        f"OEBPS/ch {at}.xhtml": f"{before}<html><head><title>Chapter {at}</title></head><body>{text}</body></html>"
        for at, text in enumerate(chapters)
    }
    container = '<c><rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></c>'
    head = {"mimetype": "application/epub+zip", "META-INF/container.xml": container, "OEBPS/book.opf": opf}
    return zipped(head | pages)


def pdf_of(pages: list[str], title: str = "", *, to_unicode: bytes = b"") -> bytes:
    """Return a PDF of these pages; `to_unicode` is a character map for its font."""
    kids = b" ".join(b"%d 0 R" % (6 + 2 * at) for at in range(len(pages)))
    font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica" + (
        b" /ToUnicode 5 0 R >>" if to_unicode else b" >>"
    )
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(pages)),
        font,
        b"<< /Title (%s) >>" % title.encode(),
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(to_unicode), to_unicode),
    ]
    for at, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R"
            b" /Resources << /Font << /F1 3 0 R >> >> >>" % (7 + 2 * at)
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
    data = b"%PDF-1.4\n"
    places = []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    data += b"".join(b"%010d 00000 n \n" % place for place in places)
    return data + b"trailer\n<< /Size %d /Root 1 0 R /Info 4 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1,
        table,
    )
