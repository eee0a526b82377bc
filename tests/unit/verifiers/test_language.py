r"""One language in problem, thoughts and answer: the seven of the recipe, mixtures, short texts."""

import socket
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_rl.verifiers.language import (
    classify,
    is_long_enough,
    is_one_language,
    strip_formulas,
)

# Problem, thoughts and answer of one task in each language of the recipe (section 2).
TEXTS = {
    "en": (
        r"Find the number of positive integers $n$ such that $n^2 + 3n$ is divisible by 7.",
        "Okay, so let me think. We need $n(n+3)$ to be a multiple of 7, hence either $n \\equiv 0$"
        " or $n \\equiv 4$. Wait, let me check again whether that is right.",
        r"The number of integers we are looking for is \boxed{28}.",
    ),
    "fr": (
        "Trouver le nombre d'entiers positifs $n$ tels que $n^2 + 3n$ soit divisible par 7.",
        "Bon, voyons voir. Il faut que $n(n+3)$ soit un multiple de 7, donc soit $n \\equiv 0$,"
        " soit $n \\equiv 4$. Attends, je vais vérifier encore une fois.",
        r"Le nombre d'entiers que nous cherchons est \boxed{28}.",
    ),
    "es": (
        "Encuentra el número de enteros positivos $n$ tales que $n^2 + 3n$ es divisible entre 7.",
        "Bueno, vamos a pensar. Necesitamos que $n(n+3)$ sea un múltiplo de 7, así que o bien"
        " $n \\equiv 0$ o bien $n \\equiv 4$. Espera, voy a comprobarlo otra vez.",
        r"El número de enteros que buscamos es \boxed{28}.",
    ),
    "it": (
        "Trova il numero di interi positivi $n$ tali che $n^2 + 3n$ sia divisibile per 7.",
        "Allora, vediamo un po'. Serve che $n(n+3)$ sia un multiplo di 7, quindi $n \\equiv 0$"
        " oppure $n \\equiv 4$. Aspetta, lo controllo ancora una volta.",
        r"Il numero di interi che stiamo cercando è \boxed{28}.",
    ),
    "de": (
        "Finde die Anzahl der positiven ganzen Zahlen $n$, für die $n^2 + 3n$ durch 7 teilbar ist.",
        "Also gut, überlegen wir mal. Wir brauchen, dass $n(n+3)$ ein Vielfaches von 7 ist, also"
        " entweder $n \\equiv 0$ oder $n \\equiv 4$. Moment, das prüfe ich noch einmal.",
        r"Die Anzahl der gesuchten ganzen Zahlen ist \boxed{28}.",
    ),
    "zh": (
        "求满足 $n^2 + 3n$ 能被 7 整除的正整数 $n$ 的个数。",
        "好的,让我想一想。我们需要 $n(n+3)$ 是 7 的倍数,所以要么 $n \\equiv 0$,要么"
        " $n \\equiv 4$。等等,让我再检查一遍这样对不对。",
        r"因此我们要求的正整数的个数是 \boxed{28}。",
    ),
    "ru": (
        "Найдите количество натуральных чисел $n$, для которых $n^2 + 3n$ делится на 7.",
        "Так, давайте подумаем. Нужно, чтобы $n(n+3)$ было кратно 7, значит либо $n \\equiv 0$,"
        " либо $n \\equiv 4$. Подождите, я проверю это ещё раз.",
        r"Искомое количество натуральных чисел равно \boxed{28}.",
    ),
}
LANGUAGES = list(TEXTS)


@pytest.mark.parametrize("language", LANGUAGES)
def test_one_language_throughout_is_recognised(language):
    assert is_one_language(*TEXTS[language]) is True
    assert [classify(strip_formulas(text)) for text in TEXTS[language]] == [language] * 3


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("other", LANGUAGES)
def test_thoughts_or_answer_in_another_language_are_noticed(language, other):
    if language == other:
        return
    problem, thoughts, answer = TEXTS[language]
    assert is_one_language(problem, TEXTS[other][1], answer) is False
    assert is_one_language(problem, thoughts, TEXTS[other][2]) is False
    assert is_one_language(TEXTS[other][0], thoughts, answer) is False


ENGLISH, THOUGHTS, ANSWER = TEXTS["en"]


@pytest.mark.parametrize(
    ("problem", "thoughts", "answer", "expected"),
    [
        ("1 + 1 = ?", THOUGHTS, ANSWER, None),  # nothing to keep to
        ("", THOUGHTS, ANSWER, None),
        (ENGLISH, THOUGHTS, r"\boxed{28}", True),  # a bare answer is left out
        (ENGLISH, "", ANSWER, True),
        (ENGLISH, "7+5=12, 4+8+1=13", r"\boxed{132}", False),  # nothing shows a language
        (ENGLISH, "", r"\boxed{28}", False),
        (ENGLISH, TEXTS["fr"][1], r"\boxed{28}", False),
        (ENGLISH, "Ok.", TEXTS["fr"][2], False),
    ],
)
def test_a_part_too_short_to_tell_is_left_out(problem, thoughts, answer, expected):
    assert is_one_language(problem, thoughts, answer) is expected


@pytest.mark.parametrize(
    ("prose", "expected"),
    [
        ("abcdefghij klmnopqrs", False),  # 19 letters
        ("abcdefghij klmnopqrst", True),  # 20
        ("1234567890 1234567890", False),
        ("求整数的个数", False),  # 6 * 3 = 18
        ("求正整数的个数", True),  # 7 * 3 = 21
    ],
)
def test_twenty_letters_or_seven_ideographs_are_enough(prose, expected):
    assert is_long_enough(prose) is expected


@pytest.mark.parametrize(
    ("text", "prose"),
    [
        (r"so $x^2$ and $$y = 1$$ and \(z\) and \[w\] end", "so and and and end"),
        ("before\n```python\nprint('bonjour tout le monde')\n```\nafter", "before after"),
        ("use `the_function` here", "use here"),
        (r"then \begin{align*} n &= 1 \text{ because} \\ \end{align*} done", "then done"),
        (r"the result is \boxed{\text{yes}}.", "the result is yes ."),
        (r"an \emph{important} word and \frac{1}{2}", "an important word and"),
        ("it costs \\$5 and \\$6 more", "it costs and more"),
        ("see https://example.org/la/page and www.example.org/x", "see and"),
        ("let n be 12 and 3,5", "let be and ,"),
        ("never $closed but `prose", "never closed but `prose"),
    ],
)
def test_formulas_code_digits_and_addresses_are_taken_out(text, prose):
    assert strip_formulas(text) == prose


@pytest.mark.parametrize(
    "text",
    [
        "\\[" * 50_000,
        "\\begin{a}" * 10_000,
        "".join(f"\\begin{{{chr(97 + i % 26)}{'b' * (i % 20)}}}" for i in range(3000)),
        "```" * 33_333,
        "$`" * 50_000,
        "\\boxed{" * 15_000,
        "http://" * 15_000,
        "_" * 100_000,
        "a " * 50_000,
    ],
    ids=lambda text: text[:9],
)
def test_hostile_text_is_stripped_in_linear_time(text):
    start_s = time.process_time()
    strip_formulas(text)
    assert time.process_time() - start_s < 2.0  # quadratic time would take minutes


@given(st.text(), st.text(), st.text())
def test_any_text_has_a_verdict(problem, thoughts, answer):
    assert is_one_language(problem, thoughts, answer) in (True, False, None)


def test_the_model_is_that_of_the_package_and_nothing_is_downloaded(monkeypatch):
    probe = (
        "import socket\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from megatron_rl.verifiers.language import classify\n"
        "print(classify('Das ist ein ganz normaler deutscher Satz.'))"
    )
    assert hasattr(socket.socket, "connect")
    done = subprocess.run(
        [sys.executable, "-c", probe],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(filter(None, sys.path)), "FTLANG_CACHE": "/nonexistent"},
    )
    assert done.stdout == "de\n"


def test_a_lone_surrogate_is_a_character_like_others():
    prose = "Let me think about this problem carefully and find the sum."
    assert classify("\ud800" + prose) == "en"


def test_ideographs_without_kana_are_chinese():
    assert classify("\u89e3\u65b9\u7a0b\u6c42\u6240\u6709\u5b9e\u6570\u89e3\u7684\u548c") == "zh"
    assert classify("\u8a08\u7b97\u9019\u500b\u6578\u5b57\u7684\u7e3d\u548c") == "zh"
    assert classify("\u3053\u308c\u306f\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3067\u3059") == "ja"
