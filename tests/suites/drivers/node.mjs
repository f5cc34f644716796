// What an application does with node-postgres, as a transcript that must be the same direct and through Turnstile.
//
//     npm i pg pg-cursor pg-query-stream pg-copy-streams;  node node.mjs postgres://postgres@127.0.0.1:5432/db
//
// Lines that begin with VERSION say how far the domain `item` moved: `VERSION part moved of expected`. Moved is 0 direct and
// what was expected through; the program fails when it is neither. The last line is the sum.
import pg from 'pg'
import Cursor from 'pg-cursor'
import QueryStream from 'pg-query-stream'
import copy from 'pg-copy-streams'
import { pipeline } from 'node:stream/promises'
import { Readable } from 'node:stream'

const URL = process.argv[2]
const T = '11111111-1111-1111-1111-111111111111'
const INSERT = 'INSERT INTO tv_item VALUES ($1, $2, $3)'
const out = (...words) => console.log(...words.map((w) => (typeof w === 'string' ? w : JSON.stringify(w))))
const stop = (why) => { console.error(why); process.exit(1) }
setTimeout(() => stop('the program hangs'), 120000).unref()

async function connect(name) {
  const c = new pg.Client({ connectionString: URL, application_name: name })
  await c.connect()
  c.on('notice', (n) => out('notice', n.severity, n.code, n.message))
  return c
}

// All that the answer says of itself: tag, columns (name, type, size, modifier, format), rows.
function show(answer) {
  for (const r of [answer].flat())
    out(' ', r.command, r.rowCount, (r.fields ?? []).map((f) => [f.name, f.dataTypeID, f.dataTypeSize, f.dataTypeModifier, f.format]), r.rows)
}

// Awaits what must fail. Position, context and internal query would show a text that is not the client's.
async function fails(what, promise) {
  const e = await promise.then(() => stop(`${what}: did not fail`), (e) => e)
  const { severity, code, message, detail, hint, position, where, internalQuery, table, constraint, routine } = e
  out(' ', what, { severity, code, message, detail, hint, position, where, internalQuery, table, constraint, routine })
}

const control = await connect()
const version = async () => Number((await control.query("SELECT turbo.fn_domain_version($1, 'item') v", [T])).rows[0].v)
let total = 0, expectedTotal = 0

// Runs a part on a connection of its own; `expected` is the number of its statements that wrote tv_item and committed.
async function part(name, expected, body) {
  out('#', name)
  const before = await version(), c = await connect()
  await body(c)
  await c.end()
  const moved = (await version()) - before
  out('VERSION', name, moved, 'of', expected)
  total += moved
  expectedTotal += expected
}

await control.query(`
  SET client_min_messages = warning; DROP TABLE IF EXISTS tv_item, tb_plain; DROP SCHEMA IF EXISTS app CASCADE;
  CREATE SCHEMA app; CREATE TABLE tb_plain (id int PRIMARY KEY, note text);
  CREATE TABLE tv_item (id int PRIMARY KEY, tenant_id uuid, name text);
  CREATE FUNCTION app.create_item(p_id int, p_tenant uuid, p_name text) RETURNS int LANGUAGE plpgsql AS $$
  BEGIN RAISE NOTICE 'item %', p_id; INSERT INTO tv_item VALUES (p_id, p_tenant, p_name); RETURN p_id; END $$`)

await part('simple and extended', 8, async (c) => {
  show(await c.query(`INSERT INTO tv_item VALUES (1, '${T}', 'one') RETURNING *`))                    // +1, simple
  show(await c.query(INSERT, [2, T, 'two']))                                                        // +1, extended
  show(await c.query('SELECT app.create_item(3, $1, $2)', [T, 'three']))                            // +1, with a notice
  show(await c.query({ text: 'SELECT * FROM tv_item WHERE id = $1', values: [1], rowMode: 'array' }))
  show(await c.query({ text: 'SELECT id, name FROM tv_item', values: [], binary: true }))           // results in binary
  show(await c.query('UPDATE tv_item SET name = $1 WHERE tenant_id = $2 AND id = 99', ['none', T])) // writes nothing
  show(await c.query("INSERT INTO tb_plain VALUES (1, 'plain')"))
  // Several statements in one simple query: each has its result, and both writes are counted (+2).
  show(await c.query(`INSERT INTO tv_item VALUES (5, '${T}', 'x'); SELECT 3 AS three; DELETE FROM tv_item WHERE id = 5`))
  // Sent one by one by the client, answered in order (+3).
  for (const r of await Promise.all([c.query(INSERT, [6, T, 'a']), c.query('SELECT count(*) FROM tv_item'),
    c.query('DELETE FROM tv_item WHERE id = 6'), c.query('SELECT app.create_item(7, $1, NULL)', [T])])) show(r)
  show(await c.query(''))
})

await part('prepared', 4, async (c) => {
  for (let i = 20; i < 23; i++)
    show(await c.query({ name: 'ins', text: INSERT + ' RETURNING id', values: [i, T, 'p' + i] }))     // +3
  await fails('again', c.query({ name: 'ins', text: INSERT + ' RETURNING id', values: [20, T, 'again'] }))
  show(await c.query({ name: 'del', text: 'DELETE FROM tv_item WHERE tenant_id = $1 AND id = ANY($2)', values: [T, [20, 21]] }))   // +1
  show(await c.query('SELECT name, statement, parameter_types FROM pg_prepared_statements ORDER BY prepare_time'))   // the client's text
  // A changed table makes the server refuse the plan of a named statement.
  const plain = { name: 'plain', text: 'SELECT * FROM tb_plain' }
  show(await c.query(plain))
  await c.query('ALTER TABLE tb_plain ADD COLUMN more int')
  await fails('changed', c.query(plain))
})

await part('transactions', 4, async (c) => {
  await c.query('BEGIN')
  show(await c.query(INSERT, [30, T, 'a']))                                                         // +1
  await c.query('SAVEPOINT s')
  show(await c.query(INSERT, [31, T, 'b']))                                                         // undone
  await fails('duplicate', c.query(INSERT, [30, T, 'dup']))
  await fails('aborted', c.query('SELECT 1'))
  await c.query('ROLLBACK TO SAVEPOINT s')
  show(await c.query('SELECT app.create_item(32, $1, $2)', [T, 'c']))                               // +1
  show(await c.query('RELEASE SAVEPOINT s'))
  show(await c.query('COMMIT'))
  await c.query('BEGIN')
  await c.query('DELETE FROM tv_item')
  show(await c.query('ROLLBACK'))                                                                   // nothing
  await c.query('BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY')
  await fails('read only', c.query(INSERT, [33, T, 'd']))
  show(await c.query('COMMIT'))                                                                     // the tag says ROLLBACK
  // A block inside of one simple query; what stands before an error is rolled back with it.
  show(await c.query(`BEGIN; INSERT INTO tv_item VALUES (34, '${T}', 'e'); COMMIT; SELECT 1`))      // +1
  await fails('two in one', c.query(`INSERT INTO tv_item VALUES (35, '${T}', 'f'); SELECT 1/0`))
  show(await c.query('WITH d AS (DELETE FROM tv_item WHERE id = 34 RETURNING id) SELECT * FROM d')) // +1
  show(await c.query('SELECT id FROM tv_item WHERE id >= 30 ORDER BY id'))
})

await part('errors', 0, async (c) => {
  for (const q of [`INSERT INTO tv_item VALUES (1, '${T}', 'dup')`, 'INSERT INTO tv_item (id, nope) VALUES (50, 1)', 'SELEC 1',
    'SELECT 1; INSERT INTO tv_item VALUES (98, NULL, \'x\'); SELECT nope FROM tv_item', 'UPDATE tv_itm SET id = 1',
    "DO $$ BEGIN RAISE EXCEPTION 'own' USING ERRCODE = 'T1234', DETAIL = 'det', HINT = 'hin'; END $$",
    "SELECT app.create_item(1, NULL, 'dup')", "INSERT INTO tv_item VALUES (98, 'no uuid', 'x')"]) {
    await fails('simple', c.query(q))
    await fails('extended', c.query({ text: q, queryMode: 'extended' }))
  }
  await fails('parameter', c.query(INSERT, ['x', T, 'y']))
  await fails('too few', c.query(INSERT, [98, T]))
})

await part('copy', 3, async (c) => {
  const into = (text, ...rows) => pipeline(Readable.from(rows), c.query(copy.from(text)))
  await into('COPY tv_item FROM STDIN', ...Array.from({ length: 3000 }, (_, i) => `${100 + i}\t${T}\tcopied\n`))   // +1
  await into('COPY tv_item FROM STDIN (FORMAT csv)', `4000,${T},"a\nb"\n40`, `01,${T},\n`)            // +1, a row in two messages
  await c.query('BEGIN')
  await into('COPY tv_item FROM STDIN', `4002\t${T}\tblock\n`)                                      // +1
  await c.query('COMMIT')
  await fails('bad row', into('COPY tv_item FROM STDIN', 'x\ty\n'))
  await fails('duplicate', into('COPY tv_item FROM STDIN', `1\t${T}\tdup\n`))
  await fails('no table', into('COPY tv_itm FROM STDIN', 'x\n'))
  for (const form of ['text', 'csv', 'binary']) {
    const to = c.query(copy.to(`COPY (SELECT id, name FROM tv_item WHERE id >= 3098 ORDER BY id) TO STDOUT (FORMAT ${form})`)), got = []
    for await (const chunk of to) got.push(chunk)
    out(' ', form, Buffer.concat(got).toString('base64'), to.rowCount)
  }
  show(await c.query('SELECT count(*), sum(id) FROM tv_item'))
})

await part('cursors', 2, async (c) => {
  const cursor = c.query(new Cursor('SELECT id FROM tv_item WHERE id >= $1 ORDER BY id', [3090]))    // a portal, by Execute
  out(' ', await cursor.read(2), await cursor.read(3))
  await cursor.close()                                                                              // before its end
  show(await c.query(INSERT, [6000, T, 'after a cursor']))                                          // +1
  // A portal of a writing SELECT, fetched in pieces, is one statement.
  const writes = c.query(new Cursor("SELECT app.create_item(i, $1, 'c') FROM generate_series(6001, 6003) i", [T]))   // +1
  out(' ', await writes.read(1), await writes.read(10), await writes.read(1))
  let sum = 0
  for await (const row of c.query(new QueryStream('SELECT id FROM tv_item', [], { batchSize: 100 }))) sum += row.id
  out(' ', sum)
  await fails('cursor', c.query(new Cursor('SELECT 1 / (3 - i) FROM generate_series(1, 9) i', [])).read(9))
})

await part('notify and cancel', 2, async (c) => {
  const got = new Promise((done) => { const all = []; c.on('notification', (n) => all.push([n.channel, n.payload]) === 2 && done(all)) })
  await c.query('LISTEN ch')
  await control.query(`BEGIN; INSERT INTO tv_item VALUES (7000, '${T}', 'n'); NOTIFY ch, 'in a block'; COMMIT`)   // +1
  await control.query("SELECT pg_notify('ch', 'two')")
  out(' ', await got)
  // A write that is cancelled in its middle has done nothing. The client's own way is a CancelRequest.
  const text = `INSERT INTO tv_item SELECT 7001, '${T}', pg_sleep(20)::text`
  for (const values of [undefined, []]) {
    const query = new pg.Query(text, values), answer = new Promise((done, fail) => query.on('end', done).on('error', fail))
    c.query(query)
    const other = new pg.Client(URL), acted = new Promise((done) => other.connection.once('end', done))
    setTimeout(() => other.cancel(c, query), 300)
    await fails('cancel', answer)
    await acted                                             // the server has signalled: the next query is safe from it
  }
  await c.query('SET statement_timeout = 200')
  await fails('timeout', c.query('SELECT app.create_item(7002, $1, pg_sleep(20)::text)', [T]))
  await c.query('RESET ALL')
  const pool = new pg.Pool({ connectionString: URL, max: 3 })
  out(' ', await Promise.all(Array.from({ length: 20 }, (_, i) => pool.query('SELECT $1::int + 1 AS n', [i]).then((r) => r.rows[0].n))))
  show(await pool.query(INSERT, [7003, T, 'after']))                                                // +1
  await pool.end()
})

await control.query('DROP TABLE tv_item, tb_plain; DROP SCHEMA app CASCADE')
await control.end()
out('VERSION', total, 'of', expectedTotal)
if (![0, expectedTotal].includes(total)) stop(`the version moved ${total}, which is neither 0 nor ${expectedTotal}`)
