"""English words that speak for no class by themselves. Data only; notation: `words/__init__.py`."""

from __future__ import annotations

from typing import Final

WORDS: Final[tuple[tuple[str, int, str], ...]] = (
    (
        "reference",
        3,
        """
        the first one, first one, second one, third one, last one, other one, that one, this one, the first,
        the second, the third, the last, the latter, the former, you said, you mentioned, you told, you wrote,
        you suggested, you gave, you listed, you proposed, your first, your second, your last, your answer,
        your suggestion, your plan, as you said, like before, as before, same as before, earlier, above, previous,
        previously, so far, we said, we talked, back to, instead, what about, how about, what if, and if, but if,
        if so, in that case, then, that changes, with that, without that, about that, that too, this too, both of them,
        either of, which of, of those, of these, of them, from the start, from before, again, still, redo, change it,
        make it, swap, adjust, update it, add that, drop the, skip the, version, the one, all of that,
        everything so far
        """,
    ),
    (
        "reference",
        2,
        """
        ^and, ^but, ^so, ^ok, ^okay, ^then, ^or, ^hmm, ^also, ^no, ^yes, ^why, ^what if, that, it, its, them, they,
        those, he, she, his, him, her, there, already, though, too, also, more, less, another, else, why not, cheaper,
        bigger, shorter, longer, we, us, only, actually, now, same
        """,
    ),
    (
        "fresh",
        5,
        """
        different thing, different one, other question, unrelated question, totally unrelated, something unrelated,
        second thing, forget the, put that aside, one last thing, another matter, new task, new subject, new topic,
        new question, different question, different topic, another topic, unrelated, by the way, btw, switching,
        on another note, on a different note, something completely different, completely different, separate question,
        separate thing, something else, change of subject, changing the subject, off topic, forget that, forget all,
        leave that, leaving that, aside, quick one, another thing, totally different, one other thing, moving on,
        now for something, next task, next up
        """,
    ),
    (
        "self",
        2,
        """
        my, i, im, ive, id, me, we, our, were, weve, mine, myself, us
        """,
    ),
    (
        "explain",
        4,
        """
        no pictures, no images, no photos, no picture, just words, just text, text only, no search, dont call,
        no function, no lookup, dont google, without google, no browsing, why, explain, how does, how do, how is,
        how are, what is a, what is an, whats a, what are, what causes, history of, origin, difference between,
        tell me about, teach me, in general, generally, without looking, dont look, no need to look, without searching,
        dont search, from memory, off the top, without using, dont use, no tools, invented, who invented
        """,
    ),
    (
        "timely",
        3,
        """
        last nights, todays, tomorrows, yesterdays, tonights, this weeks, at the moment, as of now, these days,
        this year, this season, just now, so far today, right this, in 00 minutes, by 0, at 0, on monday, next monday,
        0am, 0pm, 00am, 00pm, next month, next week, today, tonight, tomorrow, right now, now, currently, current,
        latest, newest, most recent, this week, this weekend, this morning, this evening, this afternoon, monday,
        tuesday, wednesday, thursday, friday, saturday, sunday, this month, live, up to date, just announced, breaking,
        look up, look it up, search for, google, find out, check, still open, open on, yesterday, last night
        """,
    ),
    (
        "protocol",
        5,
        """
        function call, function calling, function calls, tool call, tool calls, tool calling, call the function,
        call the tool, use the tool, tool use, using the tool, code interpreter, use your browser, browse the web,
        web browsing, call the api, api call for, tool invocation, call get, call set, call send, call create, mcp,
        the search tool, your tools, your tool, with the tool, arguments for the call, emit the call, emit a call,
        output the call, output only the call, json call, json for the call, tool with, use the plugin,
        using the plugin, with the plugin, calculator plugin, call a tool, make a call to, invoke the, invoke it,
        as a tool, using tools, run it for real, actually run, real tool
        """,
    ),
    (
        "protocol",
        3,
        """
        call, calls, tool, tools, action, actions, invoke, invocation, plugin, plugins, available tools,
        available actions, json object
        """,
    ),
    (
        "protocol",
        2,
        """
        function, functions, args, arguments, params, parameters, api, available, json, name, schema,
        respond only with json, command, commands, device, devices
        """,
    ),
    (
        "own",
        5,
        """
        this box, this machine, this server, my machine, my server, which process, what process, kill it, kill the,
        restart the, on port, whats running, what is running, my project, this project, the project, this repo,
        the repo, our repo, my repo, the repository, this repository, the codebase, this codebase, our codebase,
        my codebase, the workspace, this workspace, in src, the src, run the tests, run the test suite, the test suite,
        run pytest, run the build, run the linter, lint it, the readme, the changelog, this directory, this folder,
        current directory, current folder, the working directory, the failing test, failing tests, commit it,
        commit the, open a pr, all files, every file, the file, this file, that file, what files, which files,
        my files, the logs, the log, disk space, free disk, the uploaded, i uploaded, the attached, attached file,
        my document, the document, git status, git log, git diff, last commit
        """,
    ),
    (
        "translator",
        4,
        """
        translator, translate everything, you translate, translate whatever, translate what, translate all,
        translate each, translate every, output only the translation, only the translation, proofreader, copy editor,
        copyeditor, you proofread, you summarise, you summarize, summarise everything, summarize everything,
        rewrite whatever, rewrite everything, you rewrite, correct whatever, correct everything, you correct,
        subtitler, localisation, localization, into english, into german, into french, into spanish, transcription,
        extract the, extracts, you extract, you convert, converts, classifier, classify each, classify the,
        you classify, you label
        """,
    ),
    (
        "quantity",
        2,
        """
        how many, how much, how long, how old, how far, how fast, how big is, what percentage, what percent,
        what fraction, price of, cost of, total, what is the distance, what time, when will, when do they, whats my,
        what is my, in all, chance, odds, probability, each, altogether, by what
        """,
    ),
    (
        "figure",
        1,
        """
        two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, twenty, thirty, forty, fifty, hundred,
        thousand, million, half, third, quarter, twice, double, dozen
        """,
    ),
)
