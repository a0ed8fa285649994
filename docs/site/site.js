// Search excerpts show the article alone: the theme's <main> also holds buttons and a table of contents.
document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return;
  const toText = Search.htmlToText;
  Search.htmlToText = (text, anchor) => {
    const page = new DOMParser().parseFromString(text, "text/html");
    const article = page.querySelector("article");
    if (article) page.querySelector('[role="main"]').replaceChildren(article);
    return toText(page.documentElement.outerHTML, anchor);
  };
});
