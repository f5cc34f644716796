#!/usr/bin/env python3
"""What an application does with asyncpg, as a transcript that must be the same direct and through Turnstile.

    pip install asyncpg;  asyncpg_suite.py postgres://postgres@127.0.0.1:5432/db

Lines that begin with VERSION say how far the domain `item` moved: `VERSION part moved of expected`. Moved is 0 direct and
what was expected through; the program fails when it is neither. The last line is the sum.
"""
import asyncio
import io
import sys
import uuid
import asyncpg

URL = sys.argv[1]
T = uuid.UUID("11111111-1111-1111-1111-111111111111")
INSERT = "INSERT INTO tv_item VALUES ($1, $2, $3)"
parts = []

def out(*words):
    print(*words, flush=True)

async def connect():
    c = await asyncpg.connect(URL)
    c.add_log_listener(lambda _, m: out("notice", m.severity, m.sqlstate, m.message))
    return c

async def fails(what, awaitable, c):
    """Awaits what must fail. Position and context would show a text that is not the client's."""
    try:
        await awaitable
    except asyncpg.PostgresError as e:
        d = {k: v for k, v in e.as_dict().items() if not k.startswith("server_source")}
        out(" ", what, type(e).__name__, sorted(d.items()), "| in transaction", c.is_in_transaction())
    except (asyncio.TimeoutError, asyncio.CancelledError, RuntimeError, asyncpg.InterfaceError) as e:
        out(" ", what, type(e).__name__, "| in transaction", c.is_in_transaction())
    else:
        sys.exit(f"{what}: did not fail")

def part(expected):
    """`expected` is the number of the part's statements that wrote tv_item and committed."""
    return lambda body: parts.append((body, expected))

@part(6)
async def simple_and_extended(c):
    # Without parameters asyncpg's execute() is a simple query, with parameters an extended one.
    out(" ", await c.execute("INSERT INTO tv_item VALUES (1, '%s', 'one')" % T))              # +1
    out(" ", await c.execute(INSERT, 2, T, "two"))                                            # +1
    out(" ", await c.fetch("INSERT INTO tv_item VALUES (3, $1, 'three') RETURNING *", T))     # +1
    out(" ", await c.fetchval("SELECT app.create_item(4, $1, 'four')", T))                    # +1, by a function, with a notice
    out(" ", await c.execute("UPDATE tv_item SET name = 'none' WHERE tenant_id = $1 AND id = 99", T))   # writes nothing
    out(" ", await c.execute("INSERT INTO tb_plain VALUES (1, 'plain')"))
    # Several statements in one simple query: only the last tag is shown, and both writes are counted (+2).
    out(" ", await c.execute("INSERT INTO tv_item VALUES (5, '%s', 'x'); SELECT 1; DELETE FROM tv_item WHERE id = 5" % T))
    out(" ", await c.fetchrow("SELECT * FROM tv_item WHERE id = $1", 1), await c.fetch(""))

@part(6)
async def prepared(c):
    p = await c.prepare(INSERT + " RETURNING id, name")
    out(" ", [(a.name, a.type.name) for a in p.get_attributes()], [t.name for t in p.get_parameters()], p.get_query())
    for i in range(20, 23):
        out(" ", await p.fetch(i, T, f"p{i}"), p.get_statusmsg())                             # +3
    out(" ", await p.fetchmany([(i, T, "many") for i in (23, 24)]))                           # +2, one transaction
    out(" ", await c.fetch("SELECT statement FROM pg_prepared_statements ORDER BY prepare_time"))  # the client's text, not ours
    out(" ", (await p.explain(99, T, "x"))[0]["Plan"]["Node Type"])                           # EXPLAIN writes nothing
    await fails("again", p.fetch(20, T, "again"), c)
    await c.execute("PREPARE q (int) AS DELETE FROM tv_item WHERE tenant_id = '%s' AND id = $1" % T)
    out(" ", await c.execute("EXECUTE q(24)"), await c.execute("EXECUTE q(99)"))              # +1, the second deletes nothing
    # A changed table makes the server refuse cached plans; asyncpg prepares again, outside of transactions.
    out(" ", await c.fetch("SELECT * FROM tb_plain"))
    await c.execute("ALTER TABLE tb_plain ADD COLUMN more int")
    out(" ", await c.fetch("SELECT * FROM tb_plain"))

@part(7)
async def executemany(c):
    # One flight of Bind and Execute messages with one Sync: one transaction.
    await c.executemany(INSERT, [(i, T, "m") for i in range(30, 34)])                         # +4
    await c.executemany("UPDATE tv_item SET name = $1 WHERE tenant_id = $2 AND id = $3",
                        [("u", T, 30), ("u", T, 99), ("u", T, 31)])                           # +2: one finds no row
    await fails("one of many", c.executemany(INSERT, [(40, T, "m"), (30, T, "m"), (41, T, "m")]), c)   # undoes all
    # More than the sockets' buffers hold.
    await c.executemany("INSERT INTO tb_plain VALUES ($1, $2)", [(i, "x" * 500) for i in range(100, 5100)])
    out(" ", await c.fetch("SELECT id, name FROM tv_item WHERE id BETWEEN 30 AND 49 ORDER BY id"),
        await c.fetchrow("SELECT count(*), sum(length(note)) FROM tb_plain"))
    out(" ", await c.fetch("WITH d AS (DELETE FROM tv_item WHERE id = 33 RETURNING id) SELECT * FROM d"))   # +1

@part(4)
async def transactions(c):
    async with c.transaction():
        await c.execute(INSERT, 50, T, "a")                                                   # +1
        try:
            async with c.transaction():                                                       # a savepoint
                await c.execute(INSERT, 51, T, "b")                                           # rolled back with it
                await c.execute(INSERT, 50, T, "dup")
        except asyncpg.UniqueViolationError as e:
            out(" ", e.constraint_name, c.is_in_transaction())
        async with c.transaction():
            out(" ", await c.fetchval("SELECT app.create_item(52, $1, 'c')", T))              # +1
        out(" ", await c.fetch("SELECT id FROM tv_item WHERE id >= 50 ORDER BY id"))
    await (t := c.transaction(isolation="serializable")).start()
    await c.execute("DELETE FROM tv_item")
    await t.rollback()                                                                        # nothing
    async with c.transaction(isolation="repeatable_read"):
        out(" ", await c.fetchval("SHOW transaction_isolation"), await c.execute(INSERT, 53, T, "d"))   # +1
    await (t := c.transaction(readonly=True)).start()
    await fails("read only", c.execute(INSERT, 54, T, "e"), c)
    await fails("aborted", c.execute("SELECT 1"), c)
    await t.rollback()
    out(" ", await c.execute(INSERT, 55, T, "f"), c.is_in_transaction())                      # +1

@part(0)
async def errors(c):
    for q in ("INSERT INTO tv_item VALUES (1, '%s', 'dup')" % T, "INSERT INTO tv_item (id, nope) VALUES (50, 1)", "SELEC 1",
              "SELECT 1; INSERT INTO tv_item VALUES (98, NULL, 'x'); SELECT nope FROM tv_item", "UPDATE tv_itm SET id = 1",
              "DO $$ BEGIN RAISE EXCEPTION 'own' USING ERRCODE = 'T1234', DETAIL = 'det', HINT = 'hin'; END $$",
              "SELECT app.create_item(1, NULL, 'dup')", "INSERT INTO tv_item VALUES (98, 'no uuid', 'x')"):
        await fails("simple", c.execute(q), c)
        await fails("extended", c.fetch(q), c)                                                # two statements cannot be prepared

@part(4)
async def copy(c):
    rows = [(i, T, "binary" * 10) for i in range(110, 3110)]
    out(" ", await c.copy_records_to_table("tv_item", records=rows))                          # +1, binary
    csv = io.BytesIO(b"4000,%s,csv\n4001,%s,\"a\nb\"\n" % ((str(T).encode(),) * 2))
    out(" ", await c.copy_to_table("tv_item", source=csv, format="csv"))                      # +1
    async with c.transaction():
        out(" ", await c.copy_to_table("tv_item", source=io.BytesIO(b"4002\t%s\tt\n" % str(T).encode())))   # +1, in a block
    out(" ", await c.copy_records_to_table("tv_item", records=[(4003, T)], columns=["id", "tenant_id"]))   # +1
    await fails("bad row", c.copy_to_table("tv_item", source=io.BytesIO(b"x\ty\n")), c)
    await fails("duplicate", c.copy_records_to_table("tv_item", records=[(1, T, "dup")]), c)
    async def broken():
        yield b"5000\t%s\tx\n" % str(T).encode()
        raise RuntimeError("the client gives up: CopyFail")
    await fails("source", c.copy_to_table("tv_item", source=broken()), c)
    for form in ("text", "csv", "binary"):
        to = io.BytesIO()
        out(" ", await c.copy_from_query("SELECT id, name FROM tv_item WHERE id >= $1 ORDER BY 1", 4000, output=to, format=form), to.getvalue())
    out(" ", await c.fetch("SELECT count(*), sum(id) FROM tv_item"))

@part(3)
async def cursors(c):
    async with c.transaction():
        out(" ", sum([r[0] async for r in c.cursor("SELECT id FROM tv_item ORDER BY id", prefetch=100)]))   # a portal, by Execute
        cur = await c.cursor("SELECT id FROM tv_item WHERE id > $1 ORDER BY id", 40)
        out(" ", await cur.fetch(2), await cur.forward(3), await cur.fetchrow(), await c.execute(INSERT, 6000, T, "between"))   # +1
        out(" ", len(await cur.fetch(10000)), await cur.fetchrow())
        # A portal of a writing SELECT, fetched in pieces, is one statement.
        cur = await c.cursor("SELECT app.create_item(i, $1, 'c') FROM generate_series(6001, 6003) i", T)   # +1
        out(" ", await cur.fetch(1), await cur.fetch(5))
        await c.execute("DECLARE w CURSOR FOR SELECT id FROM tv_item ORDER BY id FOR UPDATE")
        out(" ", await c.fetch("FETCH 2 FROM w"), await c.execute("DELETE FROM tv_item WHERE CURRENT OF w"))   # +1

@part(2)
async def notify_and_cancel(c):
    got = asyncio.Queue()
    await c.add_listener("ch", lambda _, pid, channel, payload: got.put_nowait((channel, payload)))
    other = await connect()
    async with other.transaction():
        await other.execute(INSERT, 7000, T, "n")                                             # +1
        await other.execute("SELECT pg_notify('ch', 'in a transaction')")
    out(" ", await asyncio.wait_for(got.get(), 5))
    await other.close()
    slow = "INSERT INTO tv_item SELECT 7001, '%s', pg_sleep(20)::text" % T                    # cancelled: has done nothing
    await fails("timeout of the client", c.execute(slow, timeout=0.3), c)                     # asyncpg sends a CancelRequest
    task = asyncio.ensure_future(c.fetch(slow))
    asyncio.get_running_loop().call_later(0.3, task.cancel)
    await fails("cancelled task", task, c)
    await c.execute("SET statement_timeout = 200")
    await fails("timeout of the server", c.fetch("SELECT app.create_item(7002, $1, pg_sleep(20)::text)", T), c)
    await c.reset()                                                                           # UNLISTEN, RESET ALL, …
    out(" ", await c.execute(INSERT, 7003, T, "after"))                                       # +1
    pool = await asyncpg.create_pool(URL, min_size=1, max_size=3)
    out(" ", sorted(await asyncio.gather(*(pool.fetchval("SELECT $1::int + 1", i) for i in range(20)))))
    await pool.close()
    out(" ", c.get_settings().client_encoding, c.get_settings().is_superuser)

async def main():
    control, total = await connect(), 0
    version = lambda: control.fetchval("SELECT turbo.fn_domain_version($1, 'item')", T)
    await control.execute("""
        SET client_min_messages = warning; DROP TABLE IF EXISTS tv_item, tb_plain; DROP SCHEMA IF EXISTS app CASCADE;
        CREATE SCHEMA app; CREATE TABLE tb_plain (id int PRIMARY KEY, note text);
        CREATE TABLE tv_item (id int PRIMARY KEY, tenant_id uuid, name text);
        CREATE FUNCTION app.create_item(p_id int, p_tenant uuid, p_name text) RETURNS int LANGUAGE plpgsql AS $$
        BEGIN RAISE NOTICE 'item %', p_id; INSERT INTO tv_item VALUES (p_id, p_tenant, p_name); RETURN p_id; END $$""")
    for body, expected in parts:
        out("#", body.__name__)
        before, c = await version(), await connect()
        await body(c)
        await c.close()
        moved = await version() - before
        out("VERSION", body.__name__, moved, "of", expected)
        total += moved
    await control.execute("DROP TABLE tv_item, tb_plain; DROP SCHEMA app CASCADE")
    out("VERSION", total, "of", expected := sum(e for _, e in parts))
    if total not in (0, expected):
        sys.exit(f"the version moved {total}, which is neither 0 nor {expected}")

asyncio.run(asyncio.wait_for(main(), 120))
