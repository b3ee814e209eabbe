"""Checks what the bench computes: medians, ratios, goals, the table. Nothing is run or measured.

The last line is "N passed, N failed".
"""

import json
import os
import sys
import tempfile
import tomllib
import unittest
from unittest import mock

import figures
import gateway
import growth
import rows
import run
import targets
from figures import CEILING, NGINX, OURS, PLAIN, Goal, Line


def rps(number, cpu=None):
    return {"load": {"rps": number}, "cpu_us_per_request": cpu}


def each(nginx, ours, **more):
    return {NGINX: rps(nginx, 10), OURS: rps(ours, 20), **more}


ROUNDS = [each(100, 90), each(200, 100), each(50, 40)]
LEAST = Line("short", rows.rps, Goal("ratio", 0.8, least=True), cpu=True)


class Numbers(unittest.TestCase):
    def test_a_ratio_is_taken_within_its_round(self):
        # The ratio of the medians would be 0.9.
        found = figures.summary(LEAST, ROUNDS, [NGINX, OURS])
        self.assertEqual(found["ratios"][OURS], {"middle": 0.8, "low": 0.5, "high": 0.9})
        self.assertEqual(found["values"][NGINX]["middle"], 100)
        self.assertEqual(found["cpu"], {NGINX: 10, OURS: 20})

    def test_a_round_without_one_of_both_gives_no_ratio(self):
        rounds = [{NGINX: rps(10)}, {OURS: rps(10)}, each(0, 5), each(10, 5)]
        self.assertEqual(figures.ratios(rows.rps, rounds, OURS, NGINX), [0.5])

    def test_a_missing_number_is_no_zero(self):
        self.assertEqual(figures.values(rows.peak, [{OURS: rps(1)}], OURS), [])
        self.assertEqual(
            figures.values(
                rows.percentile("gap_ms", "p99"), [{OURS: {"load": {"gap_ms": None}}}], OURS
            ),
            [],
        )
        self.assertIsNone(figures.spread([]))

    def test_of_the_lost_the_worst_round_counts(self):
        line = Line("lost", rows.counted("lost"), Goal("ours", 0, every=True))
        rounds = [{OURS: {"load": {"lost": lost}}} for lost in (0, 0, 3, 0, 0)]
        found = figures.summary(line, rounds, [OURS])
        self.assertEqual(figures.value_text(line, found, OURS), "3")
        self.assertEqual(found["verdict"], "missed")

    def test_what_is_beyond_the_ceiling_is_taken_within_its_round(self):
        line = Line("first", rows.rps, Goal("ours", 60), ratio=False, beyond=True)
        rounds = [{CEILING: rps(it), **each(it + 5, it + 60)} for it in (20, 100, 1000)]
        # Without the ceiling there is nothing to take away.
        rounds += [each(1, 1), {CEILING: rps(1), NGINX: rps(6)}]
        found = figures.summary(line, rounds, [CEILING, NGINX, OURS])
        self.assertEqual(found["values"][OURS], {"middle": 60, "low": 60, "high": 60})
        self.assertEqual(found["values"][NGINX]["middle"], 5)
        self.assertIsNone(found["values"][CEILING])
        self.assertEqual((found["ratios"], found["verdict"]), ({}, "met"))

    def test_the_base_may_be_our_program_with_its_defaults(self):
        line = Line("short", rows.rps, Goal("ratio", 0.97, least=True), base=PLAIN)
        rounds = [{PLAIN: rps(100), OURS: rps(number)} for number in (90, 98, 99)]
        found = figures.summary(line, rounds, [PLAIN, OURS])
        self.assertEqual(found["ratios"], {OURS: {"middle": 0.98, "low": 0.9, "high": 0.99}})
        self.assertEqual(found["verdict"], "met")
        cells = figures.cells(line, found, [], judging=True)
        self.assertEqual(cells[1:5], ["-", "-", "98", "0.98 [0.90 .. 0.99] of 100"])

    def test_a_token_of_cpu_has_no_ceiling(self):
        (row,) = [row for row in rows.every() if row.name == "crowd-1000"]
        (line,) = [line for line in row.lines if "CPU of a token" in line.title]
        rounds = [{CEILING: {"load": {}}, OURS: {"load": {}, "cpu_us_per_token": 18.0}}]
        found = figures.summary(line, rounds, [CEILING, OURS])
        self.assertEqual((found["values"][CEILING], found["verdict"]), (None, "met"))


class Goals(unittest.TestCase):
    def test_the_bound_itself_meets(self):
        self.assertTrue(Goal("ratio", 0.8, least=True).met(0.8))
        self.assertFalse(Goal("ratio", 0.8, least=True).met(0.79))
        self.assertTrue(Goal("ours", 6).met(6))
        self.assertFalse(Goal("ours", 6).met(6.1))

    def test_the_median_is_judged(self):
        self.assertEqual(figures.summary(LEAST, ROUNDS, [NGINX, OURS])["verdict"], "met")
        slower = [*ROUNDS, each(100, 50), each(100, 50)]
        self.assertEqual(figures.summary(LEAST, slower, [NGINX, OURS])["verdict"], "missed")

    def test_every_round_is_judged_where_the_goal_says_so(self):
        def verdict(goal):
            return figures.summary(Line("short", rows.rps, goal), ROUNDS, [OURS, NGINX])["verdict"]

        # The ratios are 0.5, 0.8 and 0.9.
        self.assertEqual(verdict(Goal("ratio", 0.8)), "met")
        self.assertEqual(verdict(Goal("ratio", 0.8, every=True)), "missed")
        self.assertEqual(verdict(Goal("ratio", 0.9, every=True)), "met")
        self.assertEqual(verdict(Goal("ratio", 0.6, least=True, every=True)), "missed")
        self.assertEqual(verdict(Goal("ratio", 0.5, least=True, every=True)), "met")
        # The median is told all the same, between the least and the greatest.
        found = figures.summary(LEAST, ROUNDS, [NGINX, OURS])
        self.assertEqual(figures.ratio_text(found["ratios"][OURS]), "0.80 [0.50 .. 0.90]")

    def test_what_was_not_measured_is_not_met(self):
        self.assertEqual(figures.summary(LEAST, [], [NGINX, OURS])["verdict"], "not measured")
        free = Line("free", rows.rps)
        self.assertIsNone(figures.summary(free, ROUNDS, [NGINX, OURS])["verdict"])

    def test_goals_in_words(self):
        self.assertEqual(str(Goal("ratio", 0.75, least=True)), "at least 0.75 x")
        self.assertEqual(str(Goal("ours", 10)), "at most 10")
        self.assertEqual(str(Goal("ours", 0, every=True)), "none")
        self.assertEqual(str(Goal("ours", 75000, least=True)), "at least 75,000")
        self.assertEqual(str(Goal("ratio", 1.2, every=True)), "at most 1.2 x in every round")


class Table(unittest.TestCase):
    def lines(self, rounds, others=(), judging=True):
        names = [CEILING, NGINX, OURS, *others]
        found = [figures.summary(LEAST, rounds, names)]
        text = figures.table([LEAST], found, others, judging)
        return [
            [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()
        ]

    def test_a_line_says_all(self):
        head, rule, line = self.lines(ROUNDS)
        self.assertEqual(head, figures.HEAD)
        self.assertEqual(set("".join(rule)), {"-", ":"})
        expected = ["short", "-", "100", "90", "0.80 [0.50 .. 0.90]", "at least 0.8 x", "met"]
        self.assertEqual(line, [*expected, "10, 20 us"])

    def test_a_single_round_has_no_spread(self):
        self.assertEqual(self.lines([each(1000, 500)])[2][2:5], ["1,000", "500", "0.50"])

    def test_nothing_is_judged_in_a_quick_run(self):
        self.assertEqual(self.lines(ROUNDS, judging=False)[2][6], "")

    def test_another_proxy_has_a_column(self):
        rounds = [each(100, 90, other=rps(25))]
        head, _, line = self.lines(rounds, ["other"])
        self.assertEqual((head[-1], line[-1]), ("other (to nginx)", "25 (0.25)"))

    def test_another_proxy_tells_its_cpu_and_its_failures(self):
        rounds = [each(100, 90, other=rps(25, 1500)) for _ in range(3)]
        rounds[1]["other"]["failed"] = ["2 x status_500"]
        (*_, line) = self.lines(rounds, ["other"])
        self.assertEqual(line[-1], "25 (0.25), 1,500 us; 1 of 3 failed")
        (*_, line) = self.lines([each(1000, 900, other=rps(8))], ["other"])
        self.assertEqual(line[-1], "8 (0.008)")

    def test_all_lines_are_equally_wide(self):
        found = figures.summary(LEAST, ROUNDS, [NGINX, OURS])
        text = figures.table([LEAST, LEAST], [found, found])
        self.assertEqual(len({len(line) for line in text.splitlines()}), 1)


class Rows(unittest.TestCase):
    def test_names_differ_and_every_kind_is_known(self):
        for quick in (False, True):
            every = rows.every(quick)
            self.assertEqual(len({row.name for row in every}), len(every))
            self.assertLessEqual({row.kind for row in every}, set(targets.KINDS))

    def test_models_are_those_that_the_upstream_lists(self):
        # Proxies may refuse others.
        with open(os.path.join(os.path.dirname(__file__), "src", "model.rs")) as source:
            listed = source.read()
        for row in [*rows.every(), *rows.every(quick=True)]:
            if row.load:
                self.assertIn(f'"{row.load.model}",', listed)

    def test_a_load_as_arguments(self):
        load = rows.Load("m", 4, seconds=2.5, stream=True)
        expected = "--model m --connections 4 --seconds 2.5 --stream"
        self.assertEqual(" ".join(load.arguments()), expected)
        image = rows.Load("m", requests=1, image_bytes=rows.IMAGE, ramp=1.0, check=True)
        expected = "--model m --connections 1 --requests 1 --image-bytes 15000000 --ramp 1 --check"
        self.assertEqual(" ".join(image.arguments()), expected)

    def test_flags_and_names_of_more_words_as_arguments(self):
        load = rows.Load("m", 2, requests=2, from_connect=True, conversations=2, key="k")
        expected = "--requests 2 --conversations 2 --key k --from-connect"
        self.assertTrue(" ".join(load.arguments()).endswith(expected))

    def test_a_row_is_chosen_by_its_name_or_its_beginning(self):
        def chosen(*names):
            return [row.name for row in run.chosen(names, quick=False)]

        self.assertEqual(chosen("stream-1"), ["stream-1"])
        self.assertEqual(chosen("crowd"), ["crowd-500", "crowd-1000", "crowd-2000"])
        self.assertEqual(chosen("router-5"), ["router-5-short", "router-5-stream"])
        self.assertEqual(chosen(), [row.name for row in rows.every()])
        with self.assertRaises(targets.machine.Failure):
            chosen("stream-")

    def test_a_variant_is_measured_beside_the_defaults_only(self):
        setting = targets.Setting("", "", None, None, {"other": ""}, False)
        self.assertEqual(setting.targets(rows.burst(1000, False)), setting.targets())
        for row in [*rows.router(False), *rows.behind_keys(False)]:
            self.assertEqual(setting.targets(row), [PLAIN, OURS])
            self.assertEqual([line.base for line in row.lines], [PLAIN])

    def test_the_router_has_its_upstreams_and_the_models_of_its_loads(self):
        row, *_ = router = rows.router(False)
        config = tomllib.loads(row.variant.files["proxy.toml"].format(upstream=9, folder="/"))
        urls = {upstream["base_url"] for upstream in config["upstream"]}
        self.assertEqual(len(urls), rows.UPSTREAMS)
        self.assertIn("http://127.0.0.1:9/u1/v1", urls)
        models = {model["name"]: model for model in config["model"]}
        self.assertEqual(set(models), {row.load.model for row in router})
        self.assertEqual({it["strategy"] for it in models.values()}, {"sticky"})
        self.assertEqual(models["short"]["use"][4], "u5/short")

    def test_an_answer_that_failed_is_lost(self):
        found = {"load": {"lost": 2, "errors": {"status 503": 3}}}
        self.assertEqual(rows.failed(found), 5)

    def test_only_many_streams_change_the_defaults(self):
        self.assertEqual(rows.Load("m", 100).options(), {})
        self.assertEqual(rows.Load("m", 500).options()["MAX_CONNECTIONS"], "1024")
        many = rows.Load("m", 2000).options()
        self.assertEqual(many, {"PROXY_WORKERS": "2064", "MAX_CONNECTIONS": "2064"})

    def test_everybody_begins_once(self):
        begins = [run.rotated(["a", "b", "c"], number)[0] for number in range(4)]
        self.assertEqual(begins, ["a", "b", "c", "a"])
        self.assertEqual(run.rotated(["a", "b", "c"], 1), ["b", "c", "a"])

    def test_axes_end_at_round_numbers(self):
        self.assertEqual(growth.outward(20.5, 150), (20, 200))
        self.assertEqual(growth.outward(20, 21), (10, 50))

    def test_tokens_are_counted_without_the_ramp(self):
        alone = {"connections": 1, "tokens": 300, "seconds": 6.0}
        self.assertEqual(growth.tokens_per_second(alone), 50)
        two = {"connections": 2, "tokens": 600, "seconds": 6.0 + rows.RAMP / 2}
        self.assertEqual(growth.tokens_per_second(two), 100)

    def test_an_earlier_plot_has_our_curve(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "plot.json")
            for text in ("", "[]", '{"rows": {}}', '{"levels": {}}'):
                with open(path, "w") as file:
                    file.write(text)
                with self.assertRaisesRegex(targets.machine.Failure, "no measurement of a plot"):
                    growth.earlier(path)
            with open(path, "w") as file:
                file.write('{"levels": {"nginx": [], "ours": [{"streams": 1}]}}')
            self.assertEqual(growth.earlier(path), [{"streams": 1}])
            with self.assertRaises(targets.machine.Failure):
                growth.earlier(os.path.join(folder, "none.json"))

    def test_one_that_fails_is_told_and_the_others_are_measured(self):
        def measure(setting, target, row):
            if target == NGINX:
                raise targets.machine.Failure("it broke")
            return {"mib": 1}

        class Setting:
            problems = []

        with mock.patch.dict(targets.KINDS, size=measure):
            found = run.one_round(Setting, rows.size(), [CEILING, NGINX, OURS])
        self.assertEqual(list(found), [CEILING, NGINX, OURS])
        self.assertEqual(Setting.problems, [(NGINX, "size, nginx: it broke")])
        self.assertEqual(found[NGINX], {"failed": ["size, nginx: it broke"]})
        (line, *_) = rows.size().lines
        summary = figures.summary(line, [found], [NGINX, OURS])
        self.assertEqual(summary["failed"], {NGINX: "1 of 1 failed"})
        self.assertEqual(figures.other_text(line, summary, NGINX), "-; 1 of 1 failed")

    def test_litellm_is_measured_where_it_can_do_it(self):
        setting = targets.Setting("", "", None, None, {"other": ""}, False, "/env")
        everybody = [CEILING, NGINX, OURS, "other", gateway.NAME]
        found = {row.name: setting.targets(row) for row in rows.every()}
        self.assertEqual(found["short-16"], everybody)
        self.assertEqual(found["embed-1"], everybody[:-1])
        measured = {name for name, names in found.items() if gateway.NAME in names}
        self.assertEqual(measured, set(rows.GATEWAYS))
        self.assertEqual(setting.api(gateway.NAME), "openai")
        self.assertTrue(setting.has_processes(gateway.NAME))
        self.assertFalse(setting.has_processes("other"))
        self.assertEqual(targets.others(["litellm", "http://127.0.0.1:9,x"]), {"x": mock.ANY})

    def test_litellm_gets_the_models_of_its_rows(self):
        config = json.loads(gateway.config(rows.models(), 9))
        names = {model["model_name"] for model in config["model_list"]}
        self.assertEqual(names, {"short", "stream-256", "paced-50-100"})
        bases = {model["litellm_params"]["api_base"] for model in config["model_list"]}
        self.assertEqual(bases, {"http://127.0.0.1:9/v1"})
        self.assertIs(config["litellm_settings"]["telemetry"], False)

    def test_another_proxy_is_on_this_machine(self):
        found = targets.others(["http://127.0.0.1:9/,peer", "http://localhost:8"])
        self.assertEqual(
            found, {"peer": "http://127.0.0.1:9", "localhost:8": "http://localhost:8"}
        )
        for wrong in ("http://example.com:1", "https://127.0.0.1:1", "127.0.0.1:1"):
            with self.assertRaises(targets.machine.Failure):
                targets.others([wrong])


if __name__ == "__main__":
    suite = unittest.defaultTestLoader.loadTestsFromModule(sys.modules[__name__])
    done = unittest.TextTestRunner(stream=sys.stdout).run(suite)
    failed = len(done.failures) + len(done.errors)
    print(f"{done.testsRun - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)
