"""The sandbox of chat templates does what jinja2's own does, as transformers sets it up.

The sandbox implements many operations itself, so each is compared with jinja2's here.
What it refuses is tests/hostile's; what real templates make of conversations, test_chat_template's.
"""

from __future__ import annotations

from typing import Any

import pytest
from chat_fixtures import ChatStyle
from hypothesis import given
from hypothesis import strategies as st
from jinja2.exceptions import SecurityError
from jinja_twin import jinja_environment, to_json

from cullama.chat.sandbox.budget import Budget, LackError
from cullama.chat.sandbox.environment import MAX_BODY_DEPTH, MAX_SOURCE, MAX_TOKENS, SafeTemplate
from cullama.chat.sandbox.filters import SAFE_FILTERS
from cullama.chat.sandbox.methods import METHODS

VARIABLES: dict[str, Any] = {
    "text": "  Hello, wörld\nof 東京 🦙! \t",
    "empty": "",
    "words": ["b", "A", "c", "a", "B"],
    "numbers": [3, 1, 2, -5, 1],
    "messages": [
        {"role": "user", "content": "Hi", "n": 2, "tags": ["x"]},
        {"role": "assistant", "content": "", "n": 1, "tags": []},
        {"role": "user", "content": "<b>&'\"", "n": 3, "inner": {"deep": "down"}},
    ],
    "nothing": None,
    "yes": True,
    "half": 2.5,
}


def render_with_jinja(source: str) -> str:
    return jinja_environment().from_string(source).render(VARIABLES)


def render(source: str, steps: int = 100_000) -> str:
    return SafeTemplate(source).render(VARIABLES, Budget(steps))


EXPRESSIONS = """
text | trim
text | upper
text | lower
text | capitalize
text | title
text | length
text | trim | replace('l', 'LL')
text | replace('', '-')
text | replace('l', 'L', 1)
text | replace(1, 2)
text | indent
text | indent(2, true)
text | indent('> ', first=true, blank=true)
text | string
text | list
text | first
text | last
text | reverse
text | center(60)
empty | first
empty | last
empty | default('none', true)
empty | d('none')
missing | default('none')
missing
missing is defined
missing | length
missing | list
missing | string
missing ~ 'x'
missing == missing
missing == none
not missing
words | join
words | join(', ')
words | join(1)
words | sort | join
words | sort(reverse=true) | join
words | sort(case_sensitive=true) | join
words | unique | join
words | unique(true) | join
words | min
words | max
words | reverse | join
words | first ~ words | last
words | map('upper') | join
words | map('replace', 'a', 'z') | list
words | select('in', ['a', 'b']) | list
words | reject('eq', 'a') | list
words | select | list
words | length
words | tojson
words | string
numbers | sum
numbers | sum(start=10)
numbers | sort
numbers | min ~ numbers | max
numbers | select('odd') | list
numbers | select('divisibleby', 3) | list
numbers | select('gt', 1) | list
numbers | map('string') | join('+')
numbers | map('abs') | list
messages | map(attribute='role') | join(',')
messages | map(attribute='inner') | list | length
messages | map(attribute='inner.deep', default='none') | list | tojson
messages | map(attribute='content.0') | list | length
messages | selectattr('content') | map(attribute='content') | list
messages | selectattr('role', 'equalto', 'user') | list | length
messages | rejectattr('role', 'eq', 'user') | list | tojson
messages | selectattr('inner', 'defined') | map(attribute='inner') | list
messages | sort(attribute='n') | map(attribute='n') | list
messages | sum(attribute='n')
messages | join('|', attribute='role')
messages | min(attribute='n')
messages | unique(attribute='role') | list | length
messages | first
messages | last | tojson
messages | tojson
messages | tojson(indent=2)
messages | tojson(indent='\\t', sort_keys=true)
messages | tojson(separators=(',', ':'))
messages | tojson(ensure_ascii=true)
messages[0] | dictsort
messages[1] | dictsort(reverse=true) | map('first') | list
messages[1] | items | list
messages[0].items() | list
messages[0].keys() | list
messages[0].values() | list
messages[0].get('role')
messages[0].get('none')
messages[0].get('none', 5)
messages[0].none
messages[0]['none'] is defined
messages[2].inner.deep
messages[2]['inner']['deep']
messages[-1].role
messages[7] is defined
messages[0][words] is defined
messages[0][{}] is defined
messages[0].content.strip
messages[1:] | length
messages[::-1] | map(attribute='n') | list
text[2:7]
text[-4:]
text[::-2]
'role' in messages[0]
'x' not in messages[0]
'wör' in text
3 in numbers
'user' in messages | map(attribute='role')
'a' in missing
1 in range(5)
'role' in messages[0].keys()
1 < 2 < 3
1 < 3 < 2
1 == 1.0
'a' < 'b'
words == words | list
messages[0] == messages[0]
messages[0] != messages[1]
[1, [2]] == [1, [2]]
1 + 2 * 3 - 4
7 // 2 ~ 7 % 3 ~ 7 / 2
2 ** 10
2 ** -1
-half
half | round
half | round(1, 'floor')
half | int
'42' | int + 1
'x' | int
'x' | int(7)
'ff' | int(0, 16)
'4.5' | float
'x' | float
-3 | abs
'a' + 'b' ~ 1 ~ none ~ true
'ab' * 3
[1] * 2 + [2]
(1, 2) + (3,)
'%s-%d' % ('a', 5)
'%5.2f|%-4s|%%' % (3.14159, 'x')
'%(role)s' % messages[0]
'%s and %s' | format('a', 1)
'%(a)s' | format(a=3)
'{} {}'.format('a', 1)
'{1}{0}{a}'.format('a', 'b', a='c')
'{:>5}|{:<4}|{:05.1f}|{:,}'.format('a', 'b', 2.25, 12345)
'{!s}'.format(1)
text.strip()
text.strip().split(' ')
text.split()
text.split(',', 1)
text.rsplit('o', 1)
text.splitlines()
text.splitlines(true)
text.strip().startswith('Hell')
text.endswith(('x', '\\t'))
text.find('w') ~ text.rfind('l') ~ text.count('l') ~ text.index('H')
text.upper() ~ text.lower() ~ text.title() ~ text.swapcase() ~ text.casefold()
text.strip().capitalize()
text.lstrip() ~ '|' ~ text.rstrip()
text.strip('! \\t ')
text.partition('w')
text.rpartition('o')
text.replace('l', 'L').replace('L', 'l', 1)
text.removeprefix('  ').removesuffix('\\t')
'a'.ljust(3, '.') ~ 'a'.rjust(3) ~ 'a'.center(3, '-') ~ '7'.zfill(3)
','.join(words)
'7'.isdigit() ~ 'a'.isalpha() ~ 'A'.isupper() ~ ' '.isspace()
words.index('c') ~ words.count('a')
(1, 2, 1).count(1) ~ (1, 2).index(2)
words.copy()
dict(a=1, b=2)
dict([['a', 1]])
dict({'a': 1}, b=2)
{'a': 1, 2: [3], none: {'b': ()}}
[1, 'a', none, true, 1.5, (1,), missing]
range(3) | list
range(1, 9, 3) | list
range(5)
namespace(a=1).a
namespace(a=1).b is defined
namespace({'a': 2}).a
text is string and numbers is iterable and messages[0] is mapping and words is sequence
nothing is none and yes is true and yes is boolean and half is float and 1 is integer
half is number and 2 is even and 3 is odd and 9 is divisibleby 3
'a' is lower and 'A' is upper
1 is eq 1 and 1 is ne 2 and 1 is lt 2 and 2 is ge 2 and 'a' is in 'ab'
nothing is sameas none
'a' if yes else 'b'
'a' if nothing
yes and nothing or 'x'
(text | trim)[0]
messages[0].tags[0] ~ messages[1].tags | length
messages[2].content | e
messages[2].content | safe
messages[2].content | escape | length
1000000 | string ~ 1e3 ~ 0x10 ~ 0b11 ~ 1_000
'\\n\\t\\'\\"\\u00e9'
"it's" 'joined'
true ~ false ~ none ~ True ~ None
"""

STATEMENTS = {
    "loop": "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}"
    "{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.depth }}"
    "{% endfor %}",
    "neighbours": "{% for m in messages %}{{ loop.previtem.n if loop.previtem is defined }}-"
    "{{ loop.nextitem.n if not loop.last }}{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }}"
    "{% endfor %}",
    "loop over nothing": "{% for m in missing %}x{% else %}none{% endfor %}",
    "loop over a text": "{% for c in text %}{{ c }}.{% endfor %}",
    "loop over a dict": "{% for k in messages[0] %}{{ k }}{% endfor %}",
    "loop over items": "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}",
    "loop with a condition": "{% for m in messages if m.role == 'user' %}{{ loop.index }}"
    "{{ loop.last }}{% else %}none{% endfor %}",
    "loop with no match": "{% for m in messages if m.n > 9 %}x{% else %}none{% endfor %}",
    "loop over a selection": "{% for m in messages | selectattr('n', 'gt', 1) %}{{ loop.length }}"
    "{{ m.n }}{% endfor %}",
    "break and continue": "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}"
    "{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "a loop's own names": "{% set x = 1 %}{% for i in range(2) %}{% set x = 5 %}{{ x }}{% endfor %}"
    "{{ x }}",
    "namespace": "{% set n = namespace(x=1) %}{% for i in range(4) %}{% set n.x = n.x * 2 %}"
    "{% endfor %}{{ n.x }}",
    "branches": "{% if missing %}a{% elif numbers %}b{% else %}c{% endif %}",
    "a selection is true": "{% if messages | selectattr('none') %}yes{% else %}no{% endif %}",
    "macro": "{% macro m(a, b='x', c=a) %}{{ a }}{{ b }}{{ c }}{% endmacro %}"
    "{{ m(1) }}{{ m(1, 2) }}{{ m(b=3, a=4) }}{{ m() }}",
    "macro with more": "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, a=3) }}",
    "macro with arguments from lists": "{% macro m(a, b=0) %}{{ a }}{{ b }}"
    "{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(*words) }}"
    "{{ m(*[1], **{'b': 2, 'c': 3}) }}{{ dict(**{'a': 1}) }}",
    "call with arguments from a list": "{% macro m() %}{{ caller(*words[:2]) }}{% endmacro %}"
    "{% call(a, b) m() %}{{ b }}{{ a }}{% endcall %}",
    "caller in a loop": "{% macro m() %}{% for i in [1, 2] %}{{ caller(i) }}{% endfor %}"
    "{% endmacro %}{% call(x) m() %}{{ x }}{% for y in [x] %}{{ loop.index }}{% endfor %}"
    "{% endcall %}",
    "recursive loop": "{% for x in [1, [2, [3, 4]], 5] recursive %}{{ loop.depth }}{{ loop.index }}"
    "{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}{% endif %}{% else %}-{% endfor %}",
    "recursive loop over dicts": "{% for k, v in {'a': {'b': {}}}.items() recursive %}{{ k }}"
    "{{ loop.depth0 }}{% if v %}{{ loop(v.items()) }}{% endif %}{% endfor %}",
    "recursive loop with a condition": "{% for x in [1, [2, 3], 4] if x != 3 recursive %}"
    "{{ loop(x) if x is iterable else x }}{% endfor %}",
    "cycler": "{% set c = cycler('a', 'b', 3) %}{{ c.current }}{{ c.next() }}{{ c.next() }}"
    "{{ c.next() }}{{ c.next() }}{% set _ = c.reset() %}{{ c.current }}",
    "joiner": "{% set j = joiner(' | ') %}{% for w in words %}{{ j() }}{{ w }}{% endfor %}"
    "{% set k = joiner() %}{{ k() }}{{ k() }}",
    "groups": "{% for key, group in messages | groupby('role') %}{{ key }}:{{ group | length }};"
    "{% endfor %}{% for g in messages | groupby('n') %}{{ g.grouper }}{{ g.list[0].role }}"
    "{{ g }}{% endfor %}",
    "marked text": "{% set m = '<b>' | safe %}{{ m + '<' }}{{ '<' + m }}{{ m ~ '<' }}{{ [m, '<'] }}"
    "{{ m.join(['<', m]) }}{{ (m + '%s') % '<' }}{{ (m + '{}').format('<') }}{{ m | upper + '<' }}"
    "{{ m is escaped }}{{ m | tojson }}{{ m | e }}{{ m[1:] + '<' }}{{ m.replace('b', '<') }}"
    "{{ m | replace('b', '<') }}{{ [m] | join('<') }}{{ m == '<b>' }}{{ {m: 1}['<b>'] }}",
    "filters and tests that exist": "{{ 'trim' is filter }}{{ 'odd' is test }}{{ 'x' is filter }}"
    "{{ 'the cost' is filter }}{{ range is callable }}{{ missing is callable }}",
    "filters of none": "{{ none | select | list }}{{ none | reject('odd') | list }}"
    "{{ none | selectattr('a', 'eq', 1) | list }}{{ none | rejectattr('a') | list | length }}"
    "{{ none | map('upper') | list }}{{ missing | map(attribute='a') | list }}"
    "{{ false | map('no such filter') | list }}",
    "macro of itself": "{% macro m(n) %}{{ n }}{% if n %}{{ m(n - 1) }}{% endif %}{% endmacro %}"
    "{{ m(5) }}",
    "call": "{% macro m(a) %}[{{ caller(a) }}]{% endmacro %}"
    "{% call(x) m(3) %}{{ x * 2 }}{% endcall %}",
    "set block": "{% set x %} a {{ text }} {% endset %}{{ x | length }}{{ x | trim }}",
    "set block with a filter": "{% set x | upper %}abc{% endset %}{{ x }}",
    "set of several": "{% set a, b = 1, (2, 3) %}{{ a }}{{ b }}",
    "filter block": "{% filter upper | replace('A', 'b') %}abc{{ text }}{% endfilter %}",
    "with": "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}",
    "raw": "{% raw %}{{ not }} {% this %}{% endraw %}",
    "comment": "a{# {{ b }} #}c",
    "white space": "  {% if yes %}\n  a\n  {%- if yes -%}  b  {%+ endif %}\n {% endif %}\n\n",
    "trailing line": "a\n",
    "kept plus": "a\n  {%+ if yes %}b{% endif +%}\n",
    "windows lines": "a\r\n{% if yes %}\r\nb{% endif %}\r\n",
    "missing part of an if": "{{ 'a' if missing }}|",
    "unknown filter in a branch": "{% if missing %}{{ 1 | unknown_filter }}{% endif %}ok",
}


@pytest.mark.parametrize("expression", EXPRESSIONS.strip().splitlines())
def test_an_expression_renders_as_in_jinja2(expression: str) -> None:
    if expression == "messages[0].content.strip":  # a method is no text; jinja2 prints its address
        with pytest.raises(SecurityError, match="uses a function where texts, numbers or lists"):
            render(f"{{{{ {expression} }}}}")
        return
    source = f"{{% set x = {expression} %}}{{{{ {expression} }}}}|{{{{ x | string }}}}"
    assert render(source) == render_with_jinja(source)


@pytest.mark.parametrize("source", STATEMENTS.values(), ids=STATEMENTS)
def test_a_statement_renders_as_in_jinja2(source: str) -> None:
    assert render(source) == render_with_jinja(source)


TOOLS = [
    {
        "name": "weather",
        "type": "function",
        "parameters": {"city": {"type": "string"}, "days": {"type": ["integer", "number"]}},
        "function": {"name": "weather", "description": "<the> wörld's", "parameters": {"a": [1]}},
    }
]
CALLS = [{"id": "123456789", "type": "function", "function": {"name": "weather", "arguments": {}}}]
CONVERSATION = [
    {"role": "user", "content": "Rain?"},
    {"role": "assistant", "content": "", "tool_calls": CALLS},
    {"role": "tool", "content": "no", "tool_call_id": "123456789"},
    {"role": "assistant", "content": "No."},
]


@pytest.mark.parametrize("name", ["llama31", "mistral_v3", "qwen25", "qwen3", "command_r"])
def test_real_templates_render_tools_as_in_jinja2(name: str) -> None:
    """Nothing of cullama gives tools yet, but templates are ready for them, and so is this."""
    source, names = ChatStyle(name).source, ChatStyle(name).names
    given = {"messages": CONVERSATION, "tools": TOOLS, "add_generation_prompt": True, **names}
    variables = {**given, "date_string": "1 Jan 2025"}

    def refuse(reason: str) -> None:
        raise AssertionError(reason)

    environment = jinja_environment()
    environment.globals["raise_exception"] = refuse
    expected = environment.from_string(source).render(variables)
    assert "weather" in expected
    assert SafeTemplate(source).render(variables, Budget(20_000)) == expected


WRONG = """
1 + 'a'
'a' * 'b'
missing.x
missing['x']
missing()
missing + 1
[1, 'a'] | sort
{'a': 1} + {}
'a' < 1
1 | unknown
1 is unknown
text.find()
'%d' % 'a'
'%(x)s' % {}
'{x}'.format()
'{} {1}'.format(1, 2)
text.index('zzz')
1 / 0
1 | length
messages | selectattr('inner.deep', 'defined') | list
none | list
5 | join
'abc' | tojson(unknown=1)
words.extend('x')
messages[0].update({})
range('a')
dict(1)
''.center()
"""


@pytest.mark.parametrize("expression", WRONG.strip().splitlines())
def test_an_expression_that_fails_in_jinja2_fails_in_the_sandbox(expression: str) -> None:
    source = f"{{{{ {expression} }}}}"
    with pytest.raises(Exception, match=r"\w"):
        render_with_jinja(source)
    with pytest.raises(Exception, match=r"\w"):
        render(source)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(PLAIN, PLAIN)
def test_values_print_and_compare_as_in_python(left: Any, right: Any) -> None:
    source = "{{ l }}|{{ l | tojson }}|{{ l == r }}|{{ l in [r] }}|{{ [l, r] | length }}"
    found = SafeTemplate(source).render({"l": left, "r": right}, Budget(100_000))
    expected = f"{left}|{to_json(left)}|{left == right}|{left in [right]}|2"
    assert found == expected


# --- what is counted


def test_each_rendering_has_a_budget_of_its_own() -> None:
    template = SafeTemplate("{% for i in range(500) %}{{ i }}{% endfor %}")
    for _ in range(3):
        template.render({}, Budget(4_000))
    with pytest.raises(SecurityError, match="asks for more time or memory"):
        template.render({}, Budget(2_000))


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 40000 }}",
        "{{ [0] * 10000 }}",
        "{{ ('a' * 99) * 400 }}",
        "{% for i in range(1001) %}{% endfor %}",
        "{% for i in range(20) %}" + "a" * 2000 + "{% endfor %}",
        "{{ ('a' * 20000) ~ ('a' * 20000) }}",
        "{{ range(1001) | list | length }}",
    ],
)
def test_creating_a_large_value_exceeds_a_small_budget(source: str) -> None:
    with pytest.raises(SecurityError, match="asks for more time or memory"):
        render(source, steps=1_000)
    assert SafeTemplate(source).render({}, Budget(1_000_000)) is not None


def test_a_negative_number_of_steps_is_refused() -> None:
    budget = Budget(10)
    with pytest.raises(SecurityError, match="spends a negative number"):
        budget.spend(-1)
    assert budget.left == 10


def test_characters_and_tokens_of_a_source_are_bounded() -> None:
    assert SafeTemplate("a" * MAX_SOURCE)
    with pytest.raises(SecurityError, match="has 131,073 characters, expected at most 131,072"):
        SafeTemplate("a" * (MAX_SOURCE + 1))
    assert SafeTemplate("{{a}}" * (MAX_TOKENS // 3))
    with pytest.raises(SecurityError, match="has more than 10,000 tokens"):
        SafeTemplate("{{a}}" * (MAX_TOKENS // 3 + 1))


def test_nesting_of_loops_and_branches_is_bounded() -> None:
    nested = "{% if yes %}" * (MAX_BODY_DEPTH - 1) + "x" + "{% endif %}" * (MAX_BODY_DEPTH - 1)
    assert render(nested) == "x"
    with pytest.raises(SecurityError, match="nests more than 40 loops and branches in line 1"):
        SafeTemplate(f"{{% if yes %}}{nested}{{% endif %}}")


def test_only_listed_filters_and_methods_can_be_used() -> None:
    """A new version of jinja2 or Python brings nothing new into reach."""
    assert not {"random", "xmlattr", "urlize"} & SAFE_FILTERS.keys()
    public = {name for name in dir(str) if not name.startswith("_")}
    unreachable = public - METHODS[str].keys()
    assert unreachable == {"encode", "expandtabs", "format_map", "maketrans", "translate"}
    for name in unreachable:
        with pytest.raises(LackError, match=f"'{name}' of a str"):
            render(f"{{{{ text.{name} }}}}")
