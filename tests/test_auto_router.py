# ruff: noqa: RUF001 - Chinese sentences have Chinese punctuation.
"""The auto router's classifier: what each feature does, in three scripts; that nothing but the prompt counts; its bound.

The sentences are this test's own; the published figure is of the held-out half of bench/auto, which is judged as a
whole and never looked into.
"""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.auto_router import LANGS, SPLITS, figures, judge, samples, table
from gateway.dialects.prompt import Prompt
from gateway.route.auto import lexicon as lexicon_module
from gateway.route.auto.lazy import LazyClassifier
from gateway.route.auto.lexical import STRONG, LexicalClassifier
from gateway.route.auto.lexicon import Lexicon, han_view, latin_view
from gateway.route.auto.shape import Shape, code_signs, divide, formula_signs
from gateway.route.auto.verdict import CLASSES, Classifier
from gateway.route.auto.words import CUES, DOMAINS, WORDS

CLASSIFIER: Classifier = LexicalClassifier()
FENCED = "what does this do?\n```\nfor i in range(3):\n    print(i)\n```"
TABLE = "Turn this into a table\nAnna, 31, Oslo\nBen, 28, Bergen"

SENTENCES = {
    "trivial": """good morning! | thanks, that was super helpful | lol | are you there? | ok cool | k thx bye | asdfghjkl
        | Happy new year!! | 1 | ... | 👍👍 | zzz | 早安～ | 謝謝你，幫了大忙 | 好喔 | 哈哈哈哈 | 哈囉～有人嗎 | 你好呀 | 收到！ | 谢谢大佬！""",
    "simple_qa": """who painted the Sistine Chapel | capital of Mongolia? | When did the Titanic sink? | what does HTTP stand for
        | how many players in a rugby team | name the longest bone in the human body | 台灣最高的山是哪一座 | 誰發明了電話
        | 聖誕節是幾月幾號 | 長城有多長 | 澳大利亚的首都是哪里 | 红楼梦的作者是谁 | 水在多少度结冰 | 马云是哪里人""",
    "coding": """write a small express middleware that logs the request body | how do I undo the last commit but keep my changes
        | IndexError: list index out of range when I run my scraper | nginx returns 502 behind docker compose
        | explain what this awk command does: awk -F: '$3 > 1000 {print $1}' /etc/passwd | 這段程式碼為什麼會無限迴圈
        | 用 C# 讀取一個很大的 XML 檔，記憶體不要爆掉 | git 怎麼把剛剛的 commit 拆成兩個 | 怎么用 pandas 按月分组求和
        | vue3 里父组件怎么调用子组件的方法""",
    "math_reasoning": """What is 17% of 2450 plus 300? | factor x^2 - 5x + 6 | integrate x e^x
        | A train leaves at 9:40 and arrives at 13:05, covering 310 km. What was its average speed?
        | I flip a coin 10 times, what are the odds of at least 8 heads | 一個水池，甲管單獨注滿要 6 小時，乙管要 4 小時，兩管一起要多久
        | 父親今年 42 歲，兒子 12 歲，幾年後父親是兒子的兩倍 | 有 100 級樓梯，一次可以走 1 或 2 級，有幾種走法
        | 从 1 到 100 里有多少个数能被 3 或 5 整除 | 抛三次硬币，恰好两次正面的概率""",
    "creative": """tell me a story about a dragon who opens a bakery | give me 5 names for a coffee truck | I want a two sentence horror
        | a love letter from a stapler to a sheet of paper | You are a grumpy medieval innkeeper. I walk in dripping wet.
        | 寫一個關於外婆和縫紉機的故事 | 幫我的烘焙坊想個店名，要可愛一點 | 寫首給前任的打油詩 | 讲个程序员的冷笑话
        | 以雪为题写一首七言绝句 | 给我家布偶猫起个霸气的名字""",
    "instruction": """translate to french: the train is late again | Fix the grammar: me and him was going to the store
        | Make it sound less angry: "I've been waiting three weeks. Fix it now or I'm cancelling."
        | 把下面這句翻成日文：明天的會議改到下午三點 | 幫我潤稿：因為天氣的原因所以我們的活動被取消掉了很遺憾
        | 摘要以下內容：市府表示，新的公車路線將於七月上路，行經三所學校 | 把这段话改成书面语：我觉得这事儿吧，得再琢磨琢磨
        | 找出下面的错别字：他以经走了，我在等一会儿就去 | 按价格从低到高排一下：键盘 299，鼠标 89，显示器 1299""",
    "deep_analysis": """Compare the causes of the first and second world wars | Was the Treaty of Versailles to blame for WW2?
        | Critique the argument that free trade always benefits both partners | does charity do more harm than good? steelman both
        | 臺灣少子化的根本原因是什麼？政府補助真的有用嗎 | 比較民主制與威權制在防疫上的優劣 | 電動車補貼到底幫了環境還是幫了車廠
        | 如何看待基因编辑婴儿的伦理争议 | 分析一下拼多多为什么能崛起，它的模式可持续吗""",
    "general": """what should I cook tonight with eggplant and feta | my basil keeps dying | how does a heat pump work
        | My coworker keeps taking credit for my work, how do I bring it up | polite way to decline a baby shower
        | 第一次去東京自由行五天怎麼安排 | 冬天手腳冰冷怎麼改善 | 為什麼洋蔥切了會流眼淚 | 孩子不爱写作业怎么办 | 怎么挑西瓜""",
    "tool_call": """Call the function get_user(id) for user 42 and give me only the JSON arguments
        | Use your browser tool to find the current price of a PS5 | 請用 set_alarm(time) 這個工具幫我設七點半，只回傳呼叫內容
        | 调用工具 create_order(sku, qty)，两箱牛奶，只输出参数""",
}
LATE = {  # third messages and later
    "complex_chat": """and which of those is cheaper? | what if we leave on friday instead | ok redo it with 40% less sugar
        | he's not going to agree to that | then step 3 doesn't work anymore, right? | 那第二個方案呢 | 可是你剛剛說不用繳稅
        | 照這個改，但女主角不要死 | 那换成周日出发呢，酒店还来得及退吗 | 所以最后到底选哪个""",
    "trivial": "ok thanks! | haha perfect | 好的谢谢 | 嗯嗯",
    "simple_qa": "by the way, what's the capital of Peru?",
    "coding": "new question: how do I sort a list of dicts by two keys in python | 好的。另外想問，nginx 怎麼設定 gzip",
    "creative": "Forget the taxes. Write me a silly poem about a hedgehog in a tuxedo",
    "instruction": 'translate this to German please: "We are sorry to inform you that the store will remain closed."',
    "general": "totally unrelated but any tips for falling asleep on a plane?",
}
OFFERED = [
    ("tool_call", "get_weather Current weather for a city", "do I need an umbrella in Bergen tomorrow"),
    ("tool_call", "get_weather 查詢天氣", "這週末墾丁會下雨嗎"),
    ("tool_call", "send_email 寄送電子郵件", "跟會計說發票我下週一補"),
    ("tool_call", "query_stock 查询库存", "红色 M 码还有几件"),
    ("tool_call", "web_search Search the web", "has the new Zelda been announced yet"),
    ("tool_call", "run_shell Run a shell command\nread_file Read a file", "fix the failing test in src/invoice.py"),
    ("tool_call", "control_device 控制家中裝置", "客廳冷氣開 26 度，順便把燈關暗一點"),
    ("tool_call", "book_restaurant 预订餐厅", "明天晚上七点六个人，找个能吃川菜的包间"),
    ("trivial", "get_weather Current weather", "thanks!"),
    ("creative", "get_weather Current weather", "write a haiku about rain"),
    ("math_reasoning", "get_weather Current weather", "what is 3.5% of 1200 plus 18"),
    ("simple_qa", "web_search Search the web", "who wrote The Trial"),
    ("coding", "run_shell Run a shell command\nread_file Read a file", "how do I read a file line by line in go"),
    ("general", "get_weather Current weather", "how do clouds form"),
]


def sentences(tables: dict[str, str]) -> list[tuple[str, str]]:
    return [(name, " ".join(each.split())) for name, each_of in tables.items() for each in each_of.split("|")]


def verdict(text: str, system: str = "", users_before: int = 0, tools: str = "") -> str:
    prompt = Prompt(text, system, users_before, 2 * users_before + 1, tools, bool(tools))
    return CLASSIFIER.classify(prompt).name


@pytest.mark.parametrize(("wanted", "text"), [*sentences(SENTENCES), ("coding", FENCED), ("instruction", TABLE)])
def test_a_first_message_has_the_class_of_its_words(wanted: str, text: str) -> None:
    assert verdict(text) == wanted


@pytest.mark.parametrize(("wanted", "text"), sentences(LATE))
def test_a_late_message_belongs_to_the_talk_unless_it_stands_alone(wanted: str, text: str) -> None:
    assert verdict(text, users_before=3) == wanted


@pytest.mark.parametrize(("wanted", "text"), sentences(LATE))
def test_a_first_or_second_message_is_no_long_talk(wanted: str, text: str) -> None:
    assert {verdict(text), verdict(text, users_before=1)} & {"complex_chat"} == set()


@pytest.mark.parametrize(("wanted", "tools", "text"), OFFERED)
def test_tools_count_when_the_message_wants_one(wanted: str, tools: str, text: str) -> None:
    assert verdict(text, tools=tools) == wanted


@pytest.mark.parametrize(
    ("wanted", "system", "text"),
    [
        (
            "instruction",
            "You translate everything the user pastes into Danish.",
            "He never came back for the umbrella.",
        ),
        ("instruction", "你是專業譯者，只輸出譯文。", "The harbour froze over in February."),
        ("trivial", "You translate everything the user pastes into Danish.", "hello there"),
        ("tool_call", 'Answer with {"tool": name, "args": {}}. Available tools: open_gate(id)', "let the van in"),
        ("tool_call", '只能回覆 JSON：{"action": "", "params": {}}。可用 action：open_gate', "讓貨車進來"),
        ("trivial", 'Answer with {"tool": name, "args": {}}. Available tools: open_gate(id)', "thanks"),
        ("simple_qa", "You are a creative writing partner for novels and poems.", "who wrote The Trial"),
        ("general", "You are a senior Python engineer.", "my basil keeps dying"),
    ],
)
def test_a_system_prompt_sets_the_scene(wanted: str, system: str, text: str) -> None:
    assert verdict(text, system) == wanted


def test_every_class_can_be_the_verdict() -> None:
    reached = {name for name, _ in sentences(SENTENCES)} | {name for name, _ in sentences(LATE)}
    assert reached == set(CLASSES)


def test_a_verdict_ranks_all_classes() -> None:
    found = CLASSIFIER.classify(Prompt("who painted the Sistine Chapel"))
    assert found.name == found.scores[0][0] == "simple_qa"
    assert {name for name, _ in found.scores} == set(CLASSES)
    assert [score for _, score in found.scores] == sorted((score for _, score in found.scores), reverse=True)


def test_an_empty_message_is_general() -> None:
    assert verdict("") == "general"
    assert CLASSIFIER.classify(Prompt("", has_images=True)).name == "general"


TEXTS = st.text() | st.lists(st.sampled_from([text for _, text in sentences(SENTENCES)]), max_size=4).map("\n".join)
PROMPTS = st.builds(Prompt, TEXTS, TEXTS, st.integers(0, 5), st.integers(1, 9), TEXTS, st.booleans(), st.booleans())


@given(PROMPTS)
def test_any_prompt_has_a_verdict_and_always_the_same(prompt: Prompt) -> None:
    found = CLASSIFIER.classify(prompt)
    assert found.name in CLASSES
    assert found == CLASSIFIER.classify(prompt) == LexicalClassifier().classify(prompt)


@given(TEXTS, st.text(" \n\t\r\u3000", max_size=5), st.text(" \n\t\r\u3000", max_size=5))
def test_surrounding_space_does_not_matter(text: str, before: str, after: str) -> None:
    assert CLASSIFIER.classify(Prompt(before + text + after)) == CLASSIFIER.classify(Prompt(text))


@pytest.mark.parametrize("text", [text for _, text in sentences(SENTENCES) if text.isascii()])
def test_letter_case_does_not_matter(text: str) -> None:
    assert CLASSIFIER.classify(Prompt(text.upper())) == CLASSIFIER.classify(Prompt(text.lower()))


@pytest.mark.parametrize("what", ["text", "system", "tools"])
@pytest.mark.parametrize("sign", ["a", "how many ", "怎麼", "\n\n", "`", "(", " "])
def test_the_text_scanned_is_bounded(what: str, sign: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scanned: list[int] = []
    find = Lexicon.find

    def counted(self: Lexicon, view: bytes) -> list[tuple[int, int, int]]:
        scanned.append(len(view))
        return find(self, view)

    monkeypatch.setattr(lexicon_module.Lexicon, "find", counted)
    members = {"text": "hello", "has_tools": True, what: sign * (10**6 // len(sign))}
    CLASSIFIER.classify(Prompt(**members))  # type: ignore[arg-type]
    assert sum(scanned) <= 2 * 3 * 4000  # both views, of up to three bytes a sign


@given(st.text())
def test_no_view_is_much_longer_than_its_text(text: str) -> None:
    raw = text.encode()
    assert len(latin_view(raw)) <= len(raw) + 3
    assert len(han_view(raw)) <= len(raw) + 1


def found_by(words: str, text: str) -> bool:
    tallies = [0]
    raw = text.encode()
    one = Lexicon([(0, 1, words)])
    one.add(latin_view(raw), tallies)
    one.add(han_view(raw), tallies)
    return bool(tallies[0])


@pytest.mark.parametrize(
    ("words", "text", "found"),
    [
        ("art", "modern art.", True),
        ("art", "party", False),
        ("art", "art用", True),
        ("art", "用art畫", True),
        ("how many", "How,\nMANY?", True),
        ("translat*", "translating", True),
        ("translat*", "mistranslated", False),
        ("dont", "don't", True),
        ("dont", "don\N{RIGHT SINGLE QUOTATION MARK}t", True),
        ("c++", "in C++?", True),
        ("c++", "in C", False),
        ("utf 0", "UTF-8", True),
        ("^who", "who is it", True),
        ("^who", "those who", False),
        ("^who", "^who", True),
        ("多少/几", "幾多少", True),
        ("推薦/推荐", "有没有推荐的", True),
        ("推薦/推荐", "有沒有推 薦的", True),
        ("推薦/推荐", "推理薦骨", False),
        ("^那", "那第二個", True),
        ("^那", "剛才那個", False),
        ("^那麼/那么", "那么多", True),
    ],
)
def test_words_are_found(words: str, text: str, found: bool) -> None:
    assert found_by(words, text) is found


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("who is it", Shape("who is it", "")),
        ("see ```x = 1``` there", Shape("see \n there", "x = 1", fenced=True)),
        ("see ```x = 1", Shape("see \n", "x = 1", fenced=True)),
        ("translate: the train is late again", Shape("translate", " the train is late again")),
        ("翻成英文：明天的會議改到下午三點開始", Shape("翻成英文", "明天的會議改到下午三點開始")),
        ("urgent: call me", Shape("urgent: call me", "")),
        ('is "the train is late" right', Shape("is   right", "the train is late", quoted=True)),
        ("改「你們東西怎麼又寄錯」", Shape("改 ", "你們東西怎麼又寄錯", quoted=True)),
        ('the "Up" film', Shape('the "Up" film', "")),
        ("sort\nb\na", Shape("sort", "b\na")),
        ("sort these\n\nb\n\na\n\nthanks", Shape("sort these\nthanks", "b\n\na".replace("\n\n", "\n"))),
        ("x" * 500 + "\n\nshorter", Shape("shorter", "x" * 500)),
        ("x" * 500 + "\n\n" + "y" * 500, Shape("x" * 400, "x" * 100 + "\n" + "y" * 500)),
    ],
)
def test_a_message_is_divided_into_question_and_material(text: str, shape: Shape) -> None:
    assert divide(text) == shape


@given(st.text())
def test_dividing_loses_no_words(text: str) -> None:
    ask, material, *_ = divide(text)
    assert Counter(re.findall(r"\w", ask + material)) == Counter(re.findall(r"\w", text))


@pytest.mark.parametrize(
    ("text", "code", "formulas"),
    [
        ("We met at the lake, and it rained (a lot) all day.", False, False),
        ("我們在湖邊見面、下了一整天的雨。", False, False),
        ("for (let i = 0; i < xs.length; i++) { sum += xs[i]; }", True, False),
        ("SELECT name FROM users WHERE user_id == 7 && age != 3;", True, False),
        ("3x + 5 = 11", False, True),
        ("17% of 240", False, True),
        ("12 × 7", False, True),
    ],
)
def test_signs_of_code_and_formulas(text: str, code: bool, formulas: bool) -> None:
    assert (code_signs(text.encode()) > 2) is code
    assert bool(formula_signs(text.encode())) is formulas or code


HAN = re.compile("[\u4e00-\u9fff]")


def entries() -> list[tuple[str, str]]:
    lists = [(name, words) for name, _, words in WORDS] + [(name, words) for name, words in DOMAINS]
    return [(name, " ".join(entry.split())) for name, words in lists for entry in words.split(",")]


def test_word_lists_are_of_known_names_and_say_nothing_twice() -> None:
    assert {name for name, *_ in WORDS} == (set(CLASSES) | set(CUES)) - {"complex_chat", "tool_call"}
    assert all(0 < weight < 10 for _, weight, _ in WORDS)
    assert {weight >= STRONG for name, weight, _ in WORDS if name in CLASSES[2:8]} == {True, False}
    counts = Counter(entries())
    assert [entry for entry, count in counts.items() if count > 1] == []
    assert all(entry and "/^" not in entry for _, entry in counts)


def test_chinese_words_are_there_in_both_scripts() -> None:
    """Each script has its own character set; what neither has, such as mathematical signs, is nobody's script."""

    def written_in(forms: list[str], charset: str) -> bool:
        return any(form.encode(charset, "ignore").decode(charset) == form for form in forms)

    alone = []
    for _, entry in entries():
        forms = entry.replace("^", "").split("/")
        if HAN.search(entry) and not (written_in(forms, "big5") and written_in(forms, "gb2312")):
            alone.append(entry)
        assert entry.isascii() or all(form.isascii() or not re.search("[a-zA-Z0-9]", form) for form in forms), entry
    assert alone == []


def test_the_published_accuracy_holds_on_the_half_nobody_tuned_on() -> None:
    outcome = judge("heldout", CLASSIFIER)
    assert outcome.accuracy() >= 0.75
    assert {label: outcome.accuracy(label) >= 0.5 for label in CLASSES} == dict.fromkeys(CLASSES, True)
    assert {lang: outcome.accuracy(lang=lang) >= 0.75 for lang in LANGS} == dict.fromkeys(LANGS, True)


def test_the_bench_prints_counts_and_never_a_request() -> None:
    outcome = judge("heldout", CLASSIFIER)
    lines = table("heldout", outcome)
    assert len(lines) == len(CLASSES) + 2
    assert outcome.count() == (round(outcome.accuracy() * 240), 240)
    names = "|".join((*CLASSES, *LANGS, *SPLITS, "all", "taken", "for"))
    assert re.fullmatch(rf"(?:{names}|[\d./,\s])*", " ".join(lines))


def test_the_bench_gives_figures() -> None:
    found = figures(calls=1, rounds=1)
    assert {f"{split}_{name}" for split in SPLITS for name in ("accuracy", "lowest_class", *CLASSES, *LANGS)} < set(
        found
    )
    assert found["classify_us"] > 0 < found["read_us"]
    assert all(2040 <= len(text.encode()) <= 2100 for text in samples().values())


def test_the_lazy_classifier_says_the_same_and_is_made_once() -> None:
    prompt = Prompt("Write a Python function that merges two sorted lists")
    lazy = LazyClassifier()
    assert lazy._made is None
    assert lazy.classify(prompt) == LexicalClassifier().classify(prompt)
    made = lazy._made
    lazy.classify(prompt)
    assert lazy._made is made
