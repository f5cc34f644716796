#!/usr/bin/env python3
"""What an application does with psycopg 3, as a transcript that must be the same direct and through Turnstile.

    pip install 'psycopg[binary]';  psycopg_suite.py postgres://postgres@127.0.0.1:5432/db

Lines that begin with VERSION say how far the domain `item` moved: `VERSION part moved of expected`. Moved is 0 direct and
what was expected through; the program fails when it is neither. The last line is the sum.
"""
import sys
import threading
import time
import uuid
import psycopg
from psycopg.rows import dict_row

URL = sys.argv[1]
T = uuid.UUID("11111111-1111-1111-1111-111111111111")
total = expected_total = 0

def out(*words):
    print(*words, flush=True)

def connect(**kw):
    c = psycopg.connect(URL, autocommit=True, **kw)
    c.add_notice_handler(lambda d: out("notice", d.severity, d.sqlstate, d.message_primary))
    return c

def status(c):
    return c.info.transaction_status.name

def show(cur):
    """All that the answer says of itself: tag, columns (name, type, format), rows."""
    columns = [(d.name, d.type_code, cur.pgresult.fformat(i)) for i, d in enumerate(cur.description or [])]
    out(" ", cur.statusmessage, cur.rowcount, columns, cur.fetchall() if cur.description else "-", status(cur.connection))

def fails(what, do, c):
    """Runs what must fail. Position and context would show a text that is not the client's."""
    try:
        do()
    except psycopg.Error as e:
        d = e.diag
        out(" ", what, type(e).__name__, e.sqlstate, d.message_primary, "| position", d.statement_position, "| detail",
            d.message_detail, "| hint", d.message_hint, "| context", d.context, "| table", d.table_name, d.constraint_name,
            "|", status(c))
    else:
        sys.exit(f"{what}: did not fail")

def version():
    return reader.execute("SELECT turbo.fn_domain_version(%s, 'item')", (T,)).fetchone()[0]

def part(name, expected):
    """Runs a part on a connection of its own; `expected` is the number of its statements that wrote tv_item and committed."""
    def run(body):
        global total, expected_total
        out("#", name)
        before = version()
        with connect() as c:
            body(c)
        moved = version() - before
        total, expected_total = total + moved, expected_total + expected
        out("VERSION", name, moved, "of", expected)
    return run

reader = connect()
reader.execute("""
    SET client_min_messages = warning; DROP TABLE IF EXISTS tv_item, tb_plain; DROP SCHEMA IF EXISTS app CASCADE;
    CREATE SCHEMA app; CREATE TABLE tb_plain (id int PRIMARY KEY, note text);
    CREATE TABLE tv_item (id int PRIMARY KEY, tenant_id uuid, name text);
    CREATE FUNCTION app.create_item(p_id int, p_tenant uuid, p_name text) RETURNS int LANGUAGE plpgsql AS $$
    BEGIN RAISE NOTICE 'item %', p_id; INSERT INTO tv_item VALUES (p_id, p_tenant, p_name); RETURN p_id; END $$""")

@part("simple and extended", 5)
def _(c):
    cur = c.cursor()
    show(cur.execute("INSERT INTO tv_item VALUES (1, %s, %s) RETURNING *", (T, "one")))  # +1, extended
    show(cur.execute("SELECT app.create_item(2, %s, 'two')", (T,)))                      # +1, by a function, with a notice
    show(cur.execute("SELECT * FROM tv_item WHERE id = %s", (1,), binary=True))
    show(cur.execute("UPDATE tv_item SET name = 'uno' WHERE tenant_id = %s AND id = 1", (T,)))  # +1
    show(cur.execute("UPDATE tv_item SET name = 'none' WHERE tenant_id = %s AND id = 99", (T,)))  # writes nothing
    show(cur.execute("INSERT INTO tb_plain VALUES (1, 'plain')"))
    # Several statements in one simple query: each has its result, and both writes are counted (+2).
    cur.execute("INSERT INTO tv_item VALUES (3, '%s', 'x'); SELECT 3 AS three; DELETE FROM tv_item WHERE id = 3" % T)
    for _ in iter(lambda: show(cur) or cur.nextset(), None):
        pass
    show(c.cursor(row_factory=dict_row).execute("SELECT id, name FROM tv_item ORDER BY id"))
    show(cur.execute(""))
    show(psycopg.ClientCursor(c).execute("SELECT %s::text, %s", ("client side", 5)))

def inner(c):
    with c.transaction():
        c.execute("INSERT INTO tv_item VALUES (10, %s, 'again')", (T,))

@part("transactions", 3)
def _(c):
    cur = c.cursor()
    with c.transaction():
        show(cur.execute("INSERT INTO tv_item VALUES (10, %s, 'a')", (T,)))              # +1
        with c.transaction(force_rollback=True):
            show(cur.execute("INSERT INTO tv_item VALUES (11, %s, 'b')", (T,)))          # rolled back with its savepoint
        fails("duplicate", lambda: inner(c), c)                                          # so is this
        with c.transaction("named"):
            show(cur.execute("SELECT app.create_item(12, %s, 'c')", (T,)))               # +1
        show(cur.execute("SELECT id FROM tv_item ORDER BY id"))
    try:
        with c.transaction():
            cur.execute("DELETE FROM tv_item")
            raise psycopg.Rollback()                                                     # nothing
    finally:
        out(" ", status(c))
    c.autocommit = False                                                                 # BEGIN before the first statement
    fails("aborted", lambda: cur.execute("SELECT 1/0"), c)
    fails("in aborted", lambda: cur.execute("INSERT INTO tv_item VALUES (13, %s, 'd')", (T,)), c)
    c.rollback()
    show(cur.execute("INSERT INTO tv_item VALUES (14, %s, 'e')", (T,)))                  # +1
    c.commit()
    c.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    show(cur.execute("SHOW transaction_isolation"))
    c.rollback()
    c.read_only = True
    fails("read only", lambda: cur.execute("INSERT INTO tv_item VALUES (15, %s, 'f')", (T,)), c)
    c.rollback()

@part("errors", 0)
def _(c):
    c.execute("SET client_min_messages = notice")
    for q in ("INSERT INTO tv_item VALUES (1, '%s', 'dup')" % T, "INSERT INTO tv_item (id, nope) VALUES (50, 1)", "SELEC 1",
              "SELECT 1; INSERT INTO tv_item VALUES (51, NULL, 'x'); SELECT nope FROM tv_item", "UPDATE tv_itm SET id = 1",
              "DO $$ BEGIN RAISE EXCEPTION 'own' USING ERRCODE = 'T1234', DETAIL = 'det', HINT = 'hin'; END $$",
              "SELECT app.create_item(1, NULL, 'dup')", "INSERT INTO tv_item VALUES (52, 'no uuid', 'x')"):
        fails("simple", lambda: c.execute(q), c)
        if ";" not in q:
            fails("extended", lambda: c.execute(q, prepare=True), c)
    fails("parameter", lambda: c.execute("INSERT INTO tv_item VALUES (%s, %s, %s)", ("x", T, "y")), c)

@part("prepared", 14)
def _(c):
    c.prepare_threshold, cur = 2, c.cursor()                # the third execution makes a named statement
    for i in range(20, 26):
        show(cur.execute("INSERT INTO tv_item VALUES (%s, %s, %s)", (i, T, f"p{i}"), binary=i % 2 == 0))  # +6
    show(cur.execute("SELECT statement FROM pg_prepared_statements ORDER BY prepare_time"))  # the client's text, not ours
    cur.executemany("INSERT INTO tv_item VALUES (%s, %s, 'many') RETURNING id", [(i, T) for i in (30, 31, 32)], returning=True)  # +3
    for _ in iter(lambda: show(cur) or cur.nextset(), None):
        pass
    cur.executemany("UPDATE tv_item SET name = %s WHERE tenant_id = %s AND id = %s", [("m", T, 30), ("m", T, 99), ("m", T, 31)])  # +2
    out(" ", cur.statusmessage, cur.rowcount)
    cur.execute("DEALLOCATE ALL")
    cur.execute("PREPARE q (int) AS INSERT INTO tv_item VALUES ($1, '%s', 'sql')" % T)
    show(cur.execute("EXECUTE q(40)"))                                                    # +1, prepared in SQL
    show(cur.execute("WITH d AS (DELETE FROM tv_item WHERE id = 40 RETURNING id) SELECT * FROM d"))  # +1
    show(cur.execute("INSERT INTO tv_item VALUES (20, %s, 'z') ON CONFLICT (id) DO NOTHING", (T,)))  # skipped: none
    show(cur.execute("INSERT INTO tv_item VALUES (20, %s, 'z') ON CONFLICT (id) DO UPDATE SET name = 'z'", (T,)))  # +1

@part("pipeline", 6)
def _(c):
    with c.pipeline() as p:
        a = c.execute("INSERT INTO tv_item VALUES (60, %s, 'p')", (T,))                   # +1
        b = c.execute("SELECT app.create_item(61, %s, 'p')", (T,))                        # +1
        d = c.execute("SELECT %s::int AS n", (5,), binary=True)
        p.sync()                                                                          # a transaction ends here
        e = c.execute("UPDATE tv_item SET name = 'q' WHERE tenant_id = %s AND id >= 60", (T,))  # +1
        with c.transaction():
            f = c.execute("INSERT INTO tv_item VALUES (62, %s, 'p')", (T,))               # +1
        for cur in (a, b, d, e, f):
            show(cur)
    try:                                                    # the error may come at any of these lines, or at the end's Sync
        with c.pipeline():
            c.execute("INSERT INTO tv_item VALUES (63, %s, 'p')", (T,))                   # undone by the error behind it
            c.execute("SELECT 1/0")
            c.execute("INSERT INTO tv_item VALUES (64, %s, 'p')", (T,))                   # skipped by the server
    except psycopg.Error as e:
        out(" ", e.sqlstate, e, status(c))
    with c.pipeline():
        c.execute("INSERT INTO tv_item VALUES (65, %s, 'p')", (T,))                       # +1
    with c.pipeline():                                      # more than a socket's buffer holds, while answers come
        many = [c.execute("SELECT %s::int, repeat('x', 2000)", (i,)) for i in range(2000)]
        last = c.execute("DELETE FROM tv_item WHERE tenant_id = %s AND id BETWEEN 60 AND 61", (T,))  # +1
        out(" ", sum(m.fetchone()[0] for m in many))
        show(last)
    show(c.execute("SELECT id, name FROM tv_item WHERE id >= 60 ORDER BY id"))

@part("copy", 4)
def _(c):
    cur = c.cursor()
    with cur.copy("COPY tv_item FROM STDIN") as copy:                                     # +1
        for i in range(100, 110):
            copy.write_row((i, T, f"text\t{i}"))
    out(" ", cur.statusmessage, cur.rowcount, status(c))
    with cur.copy("COPY tv_item (id, tenant_id, name) FROM STDIN (FORMAT binary)") as copy:  # +1
        copy.set_types(["int4", "uuid", "text"])
        for i in range(110, 3110):
            copy.write_row((i, T, "binary" * 10))
    out(" ", cur.statusmessage, cur.rowcount, status(c))
    with cur.copy("COPY tv_item FROM STDIN (FORMAT csv, HEADER)") as copy:                # +1
        copy.write("id,tenant_id,name\n4000,%s,\"a\nb\"\n" % T)
    with c.transaction(), cur.copy("COPY tv_item FROM STDIN") as copy:                    # +1, in a block
        copy.write(f"4001\t{T}\tblock\n")
    def rows(text, raised=None):
        with cur.copy("COPY tv_item FROM STDIN") as copy:
            copy.write(text)
            if raised:
                raise raised
    fails("bad row", lambda: rows("x\ty\n"), c)
    fails("duplicate", lambda: rows(f"1\t{T}\tdup\n"), c)
    try:
        rows(f"5000\t{T}\tx\n", ValueError("the client gives up: CopyFail"))
    except ValueError as e:
        out(" ", e, status(c))
    for form in ("text", "binary"):
        with cur.copy("COPY (SELECT id, name FROM tv_item WHERE id BETWEEN 105 AND 112 ORDER BY id) TO STDOUT (FORMAT %s)" % form) as copy:
            out(" ", b"".join(bytes(b) for b in copy), cur.statusmessage)
    show(cur.execute("SELECT count(*), sum(id) FROM tv_item"))

@part("cursors", 3)
def _(c):
    with c.transaction(), c.cursor("named", scrollable=True) as cur:
        cur.itersize = 100
        out(" ", sum(r[0] for r in cur.execute("SELECT id FROM tv_item ORDER BY id")))
        cur.scroll(0, mode="absolute")
        out(" ", cur.fetchmany(3), cur.description, status(c))
        cur.scroll(2)
        out(" ", row := cur.fetchone())
        show(c.execute("UPDATE tv_item SET name = 'cur' WHERE id = %s", row))              # +1
    with c.transaction():
        c.execute("DECLARE w CURSOR FOR SELECT id FROM tv_item ORDER BY id FOR UPDATE")
        show(c.execute("FETCH 2 FROM w"))
        show(c.execute("DELETE FROM tv_item WHERE CURRENT OF w"))                          # +1
    with c.cursor("held", withhold=True) as cur:
        cur.execute("SELECT id FROM tv_item ORDER BY id")
        c.execute("INSERT INTO tv_item VALUES (5001, %s, 'between')", (T,))                # +1
        out(" ", len(cur.fetchall()))
    for row in c.cursor().stream("SELECT id FROM tv_item WHERE id < 10 ORDER BY id"):      # single-row mode
        out(" ", row)

@part("notify and cancel", 1)
def _(c):
    c.execute("LISTEN ch")
    with connect() as other:
        with other.transaction():
            other.execute("INSERT INTO tv_item VALUES (6000, %s, 'n')", (T,))              # +1
            other.execute("NOTIFY ch, 'in a transaction'")
        other.execute("SELECT pg_notify('ch', 'two')")
    out(" ", [(n.channel, n.payload) for n in c.notifies(timeout=5, stop_after=2)])
    c.execute("UNLISTEN *")
    for cancel in (c.cancel, c.cancel_safe):                # the old and the new (maybe encrypted) way
        timer = threading.Timer(0.3, cancel)
        timer.start()
        # A write that is cancelled in its middle has done nothing.
        fails("cancel", lambda: c.execute("INSERT INTO tv_item SELECT 6001, %s, pg_sleep(20)::text", (T,)), c)
        timer.join()
        time.sleep(0.1)
    c.execute("SET statement_timeout = 200")
    fails("timeout", lambda: c.execute("SELECT app.create_item(6002, %s, pg_sleep(20)::text)", (T,)), c)
    c.execute("SET application_name = 'suite'")
    out(" ", c.info.parameter_status("application_name"), c.info.server_version, c.info.encoding)

reader.execute("DROP TABLE tv_item, tb_plain; DROP SCHEMA app CASCADE")
out("VERSION", total, "of", expected_total)
if total not in (0, expected_total):
    sys.exit(f"the version moved {total}, which is neither 0 nor {expected_total}")
