"""A sentence for each script, and for what emoji, flags and typesetters put between letters."""

SENTENCES = {
    "arabic": "ذهبت اللاما إلى البحر في الصباح.",
    "persian, a non-joiner": "می\u200cخواهم به خانه بروم.",
    "hebrew, direction marks": "הלמה הלכה (llama\u200e) אל הים\u200f.",
    "isolates": "She said \u2067שלום\u2069 and left.",
    "hindi": "लामा सुबह समुद्र की ओर गया।",
    "hindi, a joiner": "क्\u200dष और र\u200d्य",
    "thai": "ลามาเดินไปที่ทะเลในตอนเช้า",
    "chinese": "羊驼早上去了海边。",
    "japanese, a wide space": "日本\u3000語のラマは海へ行きました。",
    "korean": "라마가 아침에 바다로 갔어요.",
    "korean, decomposed": "\u1112\u1161\u11ab\u1100\u1173\u11af",
    "french, no-break spaces": "Bonjour\u00a0! «\u202fOui\u202f»",
    "german, soft hyphens": "Donau\u00addampf\u00adschiff",
    "families": "👩\u200d💻 👨\u200d👩\u200d👧\u200d👦 👍🏽 ❤\ufe0f",
    "flags": "🇯🇵 🇧🇷 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f 🏳\ufe0f\u200d🌈",
    "word joiners, thin spaces": "10\u2009km a\u2060b c\u200bd e\ufefff",
}

UNSAFE = "\x00\x07\x08\x0b\x0c\r\x1b\x1f\x7f\x80\x85\x9b\x9f\u2028\u2029\u202d\u202e"
