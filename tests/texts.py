"""Texts that tokenizers and pages get wrong."""

HARD = [
    "",
    "   ",
    "\t \n",
    "[CLS]",
    "[cls] [SEP] [MASK]x[UNK] [PAD]",
    "😀👨‍👩‍👧🏽 🇨🇳",
    "\x00\x07a\x1bb\ufffdc\u200bd\ufeff",
    "ＡＢＣ１２３，。！　全角",
    "繁體中文，龍門客棧",
    "Café naïve Ångström ÉCOLE e\u0301",
    "İstanbul ΑΣ ΣΑΣ straße ﬁne",
    "x" * 100,
    "x" * 101,
    "antidisestablishmentarianism " * 3,
    "a\u2028b\u2029c\x85d\x1ce\u00a0f\u3000g",
    "50%的人²说：“好”——（真的）…¥$^`~",
    "한국어 テスト ไทย हिन्दी",
    "3.14159,2024年1月1日 12:30",
    "𠮷野家 㐀 豈 丽",
    "a" * 5000 + "中" * 5000,
]
