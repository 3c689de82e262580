#!/usr/bin/env python3
"""Measures the console's server with 10,000 devices and 1,000,000 edges.

Makes a communication store of that size, starts a gateway over DPDK's null devices and a console, and
asks what the map asks. Prints a table in Markdown: milliseconds until the whole answer was there, as a
client on the same machine sees them. Needs nothing but Python and the binary, and root for the gateway.

    cargo build --release -p bulkhead-gateway && bench/console.py target/release/bulkhead
"""

import argparse
import http.client
import json
import os
import pathlib
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
SCHEMA = HERE.parent / "pipeline/gateway/src/learning/schema.sql"
SERVICES = ["tcp/502", "tcp/443", "tcp/80", "udp/53", "tcp/1433", "tcp/104", "tcp/22", "udp/161"]
GROUPS = 100


def address(device):
    """100 groups of hosts, each in a network of its own."""
    return f"10.{device % GROUPS}.{device // GROUPS // 250}.{device // GROUPS % 250 + 1}"


def make_store(folder, devices, edges):
    folder.mkdir()
    store = sqlite3.connect(folder / "communication.db")
    store.execute("PRAGMA journal_mode = WAL")
    store.executescript(SCHEMA.read_text())
    store.executemany(
        "INSERT INTO meta VALUES (?, ?)", [("schema-version", "1"), ("period-s", "3600")])
    now = int(time.time())
    first = now - now % 3600 - 24 * 3600
    mac = lambda device: ":".join(f"{byte:02x}" for byte in (2 << 40 | device).to_bytes(6, "big"))
    store.executemany(
        "INSERT INTO endpoints VALUES (?, ?, ?, 'line', 'inside', '', ?, ?)",
        ((d + 1, mac(d), address(d), first * 1000, now * 1000) for d in range(devices)))
    chance = random.Random(7)

    def rows():
        seen = set()
        while len(seen) < edges:
            # Most talk to a few groups: those next to their own.
            client = chance.randrange(devices)
            group = (client + chance.choice([0, 1, 1, 2, 3, 5, 8, 40])) % GROUPS
            server = group + GROUPS * chance.randrange(devices // GROUPS)
            service = SERVICES[(group + chance.choice([0, 0, 0, 1])) % len(SERVICES)]
            if client == server or (client, server, service) in seen:
                continue
            seen.add((client, server, service))
            period = first + 3600 * chance.randrange(24)
            yield (period, client + 1, server + 1, service, chance.randrange(1, 50),
                   chance.randrange(100, 100000), period * 1000, period * 1000 + 1800000)

    store.executemany(
        "INSERT INTO edges VALUES (?, ?, ?, ?, 'line', '', 0, ?, 1, 0, 0, 0, 5, 5, ?, 900, ?, ?, "
        "'default', '')", rows())
    store.commit()
    return store


def policy():
    """Every group may open two services of those next to it."""
    lines = ["version: 1", "groups:"]
    lines += [f"  g{g}: [10.{g}.0.0/16]" for g in range(GROUPS)]
    lines += ["rules:"]
    for g in range(GROUPS):
        for step in (0, 1, 2):
            to = (g + step) % GROUPS
            service = SERVICES[to % len(SERVICES)]
            lines.append(f"  - {{name: g{g}-to-g{to}, from: g{g}, to: g{to}, service: {service}, "
                         "action: allow}")
    return "\n".join(lines) + "\n"


def configure(folder, options=""):
    """A gateway over devices that lead nowhere, with these options, and its console."""
    config = folder / "gateway.toml"
    config.write_text(f"""
policy = "policy.yaml"
state-dir = "state"
control-socket = "control.sock"
records-socket = "off"
learn-dir = "store"
clock = "trusted"
workers = 1
[[wire]]
name = "line"
inside = "net_null0{options}"
outside = "net_null1{options}"
[console]
listen = "127.0.0.1:0"
dir = "console"
user = "{os.getuid()}"
[metrics]
listen = "off"
[hardening]
confine = false
[dpdk]
huge-pages = "never"
""")
    return config


def start(binary, folder):
    (folder / "policy.yaml").write_text(policy())
    config = configure(folder)
    log = open(folder / "log", "wb")
    gateway = subprocess.Popen([binary, "run", "--config", config], stdout=log, stderr=log)
    console = subprocess.Popen(
        [binary, "console", "--config", config, "--plain-http"], stdout=subprocess.PIPE, stderr=log,
        text=True)
    line = console.stdout.readline()
    if "http://" not in line:
        sys.exit(f"the console did not start: {(folder / 'log').read_text()}")
    host, secret = line.strip().split("http://")[1].split("/setup#")
    return gateway, console, host, secret


class Client:
    def __init__(self, host):
        self.connection = http.client.HTTPConnection(host, timeout=120)
        self.headers = {}

    def ask(self, method, path, body=None):
        headers = dict(self.headers)
        if body is not None:
            headers["content-type"] = "application/json"
            body = json.dumps(body)
        begun = time.perf_counter()
        self.connection.request(method, "/api/v1" + path, body, headers)
        answer = self.connection.getresponse()
        text = answer.read()
        took = (time.perf_counter() - begun) * 1000
        return answer, text, took


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("binary")
    arguments.add_argument("--devices", type=int, default=10_000)
    arguments.add_argument("--edges", type=int, default=1_000_000)
    arguments.add_argument("--rounds", type=int, default=60)
    arguments = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="bulkhead-console-") as name:
        folder = pathlib.Path(name)
        begun = time.time()
        store = make_store(folder / "store", arguments.devices, arguments.edges)
        print(f"store made in {time.time() - begun:.0f} s", file=sys.stderr)
        processes = start(os.path.abspath(arguments.binary), folder)
        try:
            measure(arguments, *processes[1:])
        finally:
            for process in processes[:2]:
                process.terminate()
            for process in processes[:2]:
                process.wait()
            store.close()


def measure(arguments, console, host, secret):
    client = Client(host)
    setup = {"token": secret, "user": "bench", "password": "for the bench only"}
    answer, text, _ = client.ask("POST", "/setup", setup)
    if answer.status != 200:
        sys.exit(f"no set-up: {text}")
    client.headers["cookie"] = answer.getheader("set-cookie").split(";")[0]
    begun = time.time()
    while True:
        answer, text, _ = client.ask("GET", "/map/blast?device=" + address(0))
        if answer.status == 200:
            break
        if time.time() - begun > 300:
            sys.exit(f"no model of the network: {text}")
        time.sleep(0.5)
    print(f"model of the network ready after {time.time() - begun:.1f} s more", file=sys.stderr)
    chance = random.Random(3)
    group = lambda: f"g{chance.randrange(GROUPS)}"
    device = lambda: address(chance.randrange(arguments.devices))
    now = int(time.time())
    hour = lambda at: time.strftime("%Y-%m-%dT%H:00:00Z", time.gmtime(now - 3600 * at))
    asked = {
        "matrix": lambda: "/map/matrix",
        "matrix of six hours": lambda: f"/map/matrix?from={hour(12)}&to={hour(6)}",
        "cell": lambda: (lambda g: f"/map/cell?from=g{g}&to=g{(g + 1) % GROUPS}")(
            chance.randrange(GROUPS)),
        "group": lambda: f"/map/group/{group()}",
        "device": lambda: f"/devices/{device()}",
        "neighbours": lambda: f"/map/neighbours?device={device()}",
        "graph of groups": lambda: "/map/graph",
        "graph with a group": lambda: f"/map/graph?focus={group()}",
        "blast radius": lambda: f"/map/blast?device={device()}",
        "devices, searched": lambda: f"/devices?search={chance.randrange(250)}",
        "flows of a device": lambda: f"/flows?device={device()}",
        "flows, filtered": lambda: f"/flows?service=502&group={group()}",
        "times": lambda: "/map/times",
        "denied": lambda: f"/denied?group={group()}",
        "report": lambda: "/report",
    }
    print(f"{arguments.devices} devices, {arguments.edges} edges, {arguments.rounds} requests each\n")
    print("| request | p50 ms | p95 ms | most ms | KiB |\n|---|---:|---:|---:|---:|")
    for name, path in asked.items():
        times, size = [], 0
        # A report is made for paper, not for looking around.
        for _ in range(3 if name == "report" else arguments.rounds):
            answer, text, took = client.ask("GET", path())
            if answer.status != 200:
                sys.exit(f"{name}: {answer.status} {text[:300]}")
            times.append(took)
            size = max(size, len(text))
        times.sort()
        p95 = times[min(len(times) - 1, int(len(times) * 0.95))]
        print(f"| {name} | {statistics.median(times):.1f} | {p95:.1f} | {times[-1]:.1f} | "
              f"{size / 1024:.0f} |")
    status = pathlib.Path(f"/proc/{console.pid}/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    print(f"\nmemory of the console at most: {int(peak.split()[1]) / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
