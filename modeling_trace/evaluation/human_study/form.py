"""The web form of the human evaluation: one page that needs nothing else, and writes the sheet as `human.py` does."""

import json
from typing import Any

# The page may load nothing and send nothing: texts are data, and the answers leave it by the download alone.
_PAGE = r"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Rating sheet</title>
<style>
body { font: 16px/1.5 sans-serif; max-width: 50em; margin: 1em auto; padding: 0 1em; color: #222; background: #fff; }
.prompt, .text { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; }
.prompt { background: #eef2f7; padding: .6em; }
article { border: 1px solid #bbb; padding: .8em; margin: 1em 0; }
fieldset { border: 0; border-top: 1px solid #ddd; margin: .6em 0 0; padding: .3em 0; }
legend { font-weight: bold; }
label { display: block; }
.open legend { color: #b00020; }
button { font: inherit; padding: .3em 1em; margin-right: .5em; }
#note { color: #b00020; min-height: 1.5em; }
</style>
</head>
<body>
<h1>Rating sheet</h1>
<p>Read the texts of a group, then rate each of them from 1 (worst) to 5 (best). The order of the texts means nothing.
You may go back and change ratings. When all groups are done, save the sheet and send the file back.</p>
<p id="progress" aria-live="polite"></p>
<div id="prompt"></div>
<div id="group"></div>
<p id="note" role="alert"></p>
<p><button id="back">Back</button><button id="next">Next</button><button id="save">Save the sheet</button></p>
<script id="data" type="application/json">@DATA@</script>
<script>
"use strict";

// As Python writes the sheets: every cell in quotes, lines end in CR LF, and a mark for text that a spreadsheet
// would take for a formula.
function cell(value) {
  const text = String(value);
  return '"' + (/^[=+\-@']/.test(text) ? "'" + text : text).replace(/"/g, '""') + '"';
}

function toCsv(sheet, answers) {
  const names = sheet.criteria.map(function (criterion) { return criterion.name; });
  const lines = [["annotator", "group", "item", "prompt", "text"].concat(names)];
  for (const row of sheet.rows) {
    const given = answers[row.item] || {};
    const ratings = names.map(function (name) { return name in given ? given[name] : ""; });
    lines.push([sheet.annotator, row.group, row.item, row.prompt, row.text].concat(ratings));
  }
  return "\ufeff" + lines.map(function (line) { return line.map(cell).join(",") + "\r\n"; }).join("");
}

function start(sheet) {
  const names = sheet.criteria.map(function (criterion) { return criterion.name; });
  const groups = [];
  for (const row of sheet.rows) {
    (groups[row.group - 1] = groups[row.group - 1] || []).push(row);
  }
  const place = ["rating-sheet", sheet.annotator, sheet.rows[0].item].join(" ");
  let answers = {};
  let kept = true; // answers are also kept by the browser, where it allows that, so that a closed page loses none
  try { answers = JSON.parse(localStorage.getItem(place)) || {}; } catch (error) { kept = false; }
  let current = 0;
  let saved = true;

  function element(id) { return document.getElementById(id); }
  function make(tag, text, className) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }
  function isDone(row) { return names.every(function (name) { return name in (answers[row.item] || {}); }); }

  function showProgress() {
    const done = sheet.rows.filter(isDone).length;
    element("progress").textContent = "Group " + (current + 1) + " of " + groups.length + "; " + done + " of " +
      sheet.rows.length + " texts are rated." + (kept ? "" : " Keep this page open until you have saved the sheet.");
  }

  function question(row, criterion) {
    const set = make("fieldset");
    set.appendChild(make("legend", criterion.name + ": " + criterion.question));
    criterion.anchors.forEach(function (anchor, index) {
      const label = make("label");
      const input = make("input");
      input.type = "radio";
      input.name = row.item + " " + criterion.name;
      input.value = String(index + 1);
      input.checked = (answers[row.item] || {})[criterion.name] === index + 1;
      input.addEventListener("change", function () {
        answers[row.item] = answers[row.item] || {};
        answers[row.item][criterion.name] = index + 1;
        saved = false;
        set.className = "";
        try { localStorage.setItem(place, JSON.stringify(answers)); } catch (error) { kept = false; }
        showProgress();
      });
      label.appendChild(input);
      label.appendChild(document.createTextNode(" " + (index + 1) + "  " + anchor));
      set.appendChild(label);
    });
    return set;
  }

  function show(index, markOpen) {
    current = index;
    const rows = groups[index];
    const prompt = element("prompt");
    prompt.replaceChildren();
    if (rows[0].prompt) {
      prompt.appendChild(make("h2", "Prompt"));
      const text = make("div", rows[0].prompt, "prompt");
      text.dir = "auto";
      prompt.appendChild(text);
    }
    const group = element("group");
    group.replaceChildren();
    rows.forEach(function (row, number) {
      const article = make("article");
      article.appendChild(make("h2", "Text " + (number + 1)));
      const text = make("div", row.text, "text");
      text.dir = "auto";
      article.appendChild(text);
      sheet.criteria.forEach(function (criterion) {
        const set = question(row, criterion);
        if (markOpen && !(criterion.name in (answers[row.item] || {}))) set.className = "open";
        article.appendChild(set);
      });
      group.appendChild(article);
    });
    element("back").disabled = index === 0;
    element("next").disabled = index === groups.length - 1;
    element("note").textContent = "";
    showProgress();
    window.scrollTo(0, 0);
  }

  function save() {
    const open = groups.findIndex(function (rows) { return !rows.every(isDone); });
    if (open >= 0) {
      show(open, true);
      element("note").textContent = "Some ratings are missing, the first of them in this group (in red).";
      return;
    }
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([toCsv(sheet, answers)], { type: "text/csv;charset=utf-8" }));
    link.download = sheet.annotator + ".csv";
    document.body.appendChild(link);
    link.click();
    link.remove();
    saved = true;
  }

  element("back").addEventListener("click", function () { show(current - 1); });
  element("next").addEventListener("click", function () { show(current + 1); });
  element("save").addEventListener("click", save);
  window.addEventListener("beforeunload", function (event) { if (!saved && !kept) event.preventDefault(); });
  show(0);
}

if (typeof document !== "undefined") start(JSON.parse(document.getElementById("data").textContent));
</script>
</body>
</html>
"""


def render_form(sheet: dict[str, Any]) -> str:
    """
    The page for one annotator.

    Args:
        sheet (`dict`): `annotator`, `criteria` (a list of `name`, `question` and five `anchors`) and `rows` (a list
            of `group`, counted from 1, `item`, `prompt` and `text`).

    Returns:
        `str`: HTML.
    """
    # "<" would end the script element in a text that holds "</script>"; \u2028 is no line end inside JSON data
    return _PAGE.replace("@DATA@", json.dumps(sheet, ensure_ascii=False).replace("<", "\\u003c"))


__all__ = ["render_form"]
