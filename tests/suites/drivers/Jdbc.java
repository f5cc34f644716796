import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.sql.*;
import java.util.*;
import java.util.concurrent.*;
import org.postgresql.PGConnection;
import org.postgresql.copy.*;
import org.postgresql.util.*;

/**
 * What an application does with pgjdbc, as a transcript that must be the same direct and through Turnstile.
 *
 *     apt-get install libpostgresql-jdbc-java
 *     javac -cp /usr/share/java/postgresql.jar -d DIR Jdbc.java
 *     java -cp /usr/share/java/postgresql.jar:DIR Jdbc postgres://postgres@127.0.0.1:5432/db
 *
 * Lines that begin with VERSION say how far the domain `item` moved: `VERSION part moved of expected`. Moved is 0 direct and
 * what was expected through; the program fails when it is neither. The last line is the sum.
 */
public class Jdbc {
    static final UUID T = UUID.fromString("11111111-1111-1111-1111-111111111111");
    static final String INSERT = "INSERT INTO tv_item VALUES (?, ?, ?)";
    static String url;
    static Connection control;
    static long sum, expectedSum;

    interface Body { void run(Connection c) throws Exception; }

    static void out(Object... words) {
        System.out.println(String.join(" ", Arrays.stream(words).map(String::valueOf).toList()));
    }

    static Connection connect(String options) throws SQLException {
        return DriverManager.getConnection(url + options);
    }

    /** Rows with their columns' names and types. */
    static void rows(ResultSet r) throws SQLException {
        ResultSetMetaData m = r.getMetaData();
        for (int i = 1; i <= m.getColumnCount(); i++) out("  column", m.getColumnName(i), m.getColumnTypeName(i), m.getPrecision(i));
        while (r.next()) {
            List<Object> row = new ArrayList<>();
            for (int i = 1; i <= m.getColumnCount(); i++) row.add(r.getObject(i));
            out("  row", row);
        }
    }

    /** Executes and shows all results, update counts and warnings (the server's notices). */
    static void show(Connection c, String text, Object... with) throws SQLException {
        try (PreparedStatement s = c.prepareStatement(text)) {
            for (int i = 0; i < with.length; i++) s.setObject(i + 1, with[i]);
            boolean isRows = s.execute();
            while (isRows || s.getUpdateCount() != -1) {
                if (isRows) rows(s.getResultSet()); else out("  count", s.getUpdateCount());
                isRows = s.getMoreResults();
            }
            for (SQLWarning w = s.getWarnings(); w != null; w = w.getNextWarning()) out("  warning", w.getSQLState(), w.getMessage());
        }
    }

    /** Shows what must fail. Position and context would show a text that is not the client's. */
    static void fails(String what, Callable<?> body) throws Exception {
        try {
            body.call();
        } catch (SQLException e) {
            for (SQLException x = e; x != null; x = x.getNextException()) {
                ServerErrorMessage m = x instanceof PSQLException p ? p.getServerErrorMessage() : null;
                out(" ", what, x.getClass().getSimpleName(), x.getSQLState(), x.getMessage().replace('\n', '/'),
                    m == null ? "-" : m.getPosition() + " " + m.getTable() + " " + m.getConstraint() + " " + m.getRoutine());
                if (x instanceof BatchUpdateException b) out("  counts", Arrays.toString(b.getUpdateCounts()));
            }
            return;
        }
        throw new IllegalStateException(what + ": did not fail");
    }

    static long version() throws SQLException {
        try (ResultSet r = control.createStatement().executeQuery("SELECT turbo.fn_domain_version('" + T + "', 'item')")) {
            r.next();
            return r.getLong(1);
        }
    }

    /** Runs a part on a connection of its own; `expected` is the number of its statements that wrote tv_item and committed. */
    static void part(String name, String options, int expected, Body body) throws Exception {
        out("#", name, options);
        long before = version();
        try (Connection c = connect(options)) {
            body.run(c);
        }
        long moved = version() - before;
        out("VERSION", name, moved, "of", expected);
        sum += moved;
        expectedSum += expected;
    }

    /** In each of the driver's ways to send queries. In its simple mode it writes calls in a way that finds no function. */
    static void queries(Connection c, boolean simple) throws Exception {
        show(c, "TRUNCATE tb_plain");
        show(c, INSERT, 1, T, "one");                                                               // +1
        show(c, "SELECT app.create_item(?, ?, ?)", 2, T, "two");                                    // +1, with a notice
        show(c, "SELECT * FROM tv_item ORDER BY id");
        show(c, "UPDATE tv_item SET name = 'none' WHERE tenant_id = ? AND id = 99", T);             // writes nothing
        show(c, "INSERT INTO tb_plain VALUES (1, 'plain')");
        // The driver splits this into three Parse/Bind/Execute with one Sync, or sends it as one simple query (+2).
        show(c, "INSERT INTO tv_item VALUES (3, '" + T + "', 'x'); SELECT 3 AS three; DELETE FROM tv_item WHERE id = 3");
        if (!simple)
            try (CallableStatement f = c.prepareCall("{? = call app.create_item(?, ?, ?)}")) {
                f.registerOutParameter(1, Types.INTEGER);
                f.setInt(2, 4); f.setObject(3, T); f.setString(4, "call");
                f.execute();                                                                        // +1
                out("  returned", f.getInt(1));
            }
        try (PreparedStatement s = c.prepareStatement("DELETE FROM tv_item WHERE tenant_id = ?", Statement.RETURN_GENERATED_KEYS)) {
            s.setObject(1, T);
            out("  count", s.executeUpdate());                                                      // +1, the driver adds RETURNING *
            rows(s.getGeneratedKeys());
        }
        // One statement (+1): a CTE that writes, and reads what it wrote.
        show(c, "WITH i AS (INSERT INTO tv_item VALUES (5, ?, 'cte') RETURNING *) SELECT id, name FROM i", T);
        show(c, "DELETE FROM tb_plain");
        show(control, "DELETE FROM tv_item WHERE tenant_id = '" + T + "' AND id = 5");              // +1, simple or extended
    }

    /** Named statements from the fifth execution on, binary transfer from then; a batch is one flight. */
    static void batches(Connection c, String... keys) throws Exception {
        show(c, "DELETE FROM tb_plain");
        try (PreparedStatement s = c.prepareStatement(INSERT, keys)) {
            for (int i = 100; i < 107; i++) {
                s.setInt(1, i); s.setObject(2, T); s.setString(3, "p" + i);
                out("  count", s.executeUpdate());                                                  // +7
            }
            for (int i = 200; i < 210; i++) { s.setInt(1, i); s.setObject(2, T); s.setString(3, "b"); s.addBatch(); }
            out("  counts", Arrays.toString(s.executeBatch()));                                     // +10; rewritten: INSERTs of 8 and
            rows(s.getGeneratedKeys());                                                             // 2 rows, +2
            for (int i : new int[] {300, 200, 301}) { s.setInt(1, i); s.setObject(2, T); s.setString(3, "dup"); s.addBatch(); }
            fails("batch", s::executeBatch);                                                        // one transaction: nothing
        }
        try (Statement s = c.createStatement()) {
            s.addBatch("UPDATE tv_item SET name = 'u' WHERE tenant_id = '" + T + "' AND id < 103");   // +1
            s.addBatch("INSERT INTO tb_plain SELECT i, repeat('x', 1000) FROM generate_series(1, 100) i");
            s.addBatch("DELETE FROM tv_item WHERE id = 99");                                        // nothing
            s.addBatch("SELECT app.create_item(400, '" + T + "', 'batch')");                        // +1
            s.addBatch("DELETE FROM tv_item WHERE id >= 100");                                      // +1
            out("  counts", Arrays.toString(s.executeBatch()));
        }
        show(c, "SELECT statement FROM pg_prepared_statements WHERE statement LIKE 'INSERT%' ORDER BY prepare_time");
    }

    static void transactions(Connection c) throws Exception {
        c.setAutoCommit(false);                                 // BEGIN travels with the first statement
        show(c, INSERT, 10, T, "a");                                                                // +1
        Savepoint s = c.setSavepoint("s");
        show(c, INSERT, 11, T, "undone");
        fails("duplicate", () -> { show(c, INSERT, 10, T, "dup"); return 0; });
        c.rollback(s);
        show(c, "SELECT app.create_item(12, ?, 'c')", T);                                           // +1
        c.commit();
        show(c, "DELETE FROM tv_item");
        c.rollback();                                                                               // nothing
        c.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        c.setReadOnly(true);
        fails("read only", () -> { show(c, INSERT, 13, T, "d"); return 0; });
        fails("aborted", () -> { show(c, "SELECT 1"); return 0; });
        c.rollback();
        c.setReadOnly(false);
        fails("division", () -> { show(c, "SELECT 1/0"); return 0; });
        c.commit();                                             // the server says ROLLBACK
        // Portals: the driver fetches 10 rows at a time, with Execute. One that writes is one statement (+1).
        show(c, "INSERT INTO tb_plain SELECT i, 'x' FROM generate_series(1000, 1099) i");
        for (String text : List.of("SELECT id FROM tb_plain ORDER BY id", "SELECT app.create_item(i, '" + T + "', 'f') FROM generate_series(20, 50) i"))
            try (Statement f = c.createStatement()) {
                f.setFetchSize(10);
                long all = 0;
                for (ResultSet r = f.executeQuery(text); r.next();) all += r.getInt(1);
                out("  sum", all);
            }
        try (Statement f = c.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE);
             ResultSet r = f.executeQuery("SELECT id, tenant_id, name FROM tv_item WHERE id >= 20 ORDER BY id")) {
            r.absolute(2);
            r.updateString("name", "updated in place");
            r.updateRow();                                                                          // +1
            r.last();
            r.deleteRow();                                                                          // +1
        }
        c.commit();
        show(c, "SELECT id, name FROM tv_item WHERE id >= 20 ORDER BY id LIMIT 3");
        c.rollback();
    }

    /** The driver sets savepoints of its own (autosave=always): what failed is undone, the transaction goes on. */
    static void autosave(Connection c) throws Exception {
        c.setAutoCommit(false);
        show(c, INSERT, 60, T, "a");                                                                // +1
        fails("duplicate", () -> { show(c, INSERT, 60, T, "dup"); return 0; });
        show(c, "SELECT app.create_item(61, ?, 'b')", T);                                           // +1
        fails("dup by a function", () -> { show(c, "SELECT app.create_item(61, ?, 'b')", T); return 0; });
        c.commit();
        // A changed table makes the server refuse the plans of named statements; the driver heals that.
        try (PreparedStatement s = c.prepareStatement("SELECT * FROM tb_plain WHERE id = 1000")) {
            for (int i = 0; i < 7; i++) { try (ResultSet r = s.executeQuery()) { r.next(); } }
            c.createStatement().execute("ALTER TABLE tb_plain ADD COLUMN more int");
            rows(s.executeQuery());
        }
        c.rollback();
    }

    static void errors(Connection c) throws Exception {
        for (String q : List.of("INSERT INTO tv_item VALUES (60, NULL, 'dup')", "INSERT INTO tv_item (id, nope) VALUES (50, 1)", "SELEC 1",
                "SELECT 1; INSERT INTO tv_item VALUES (98, NULL, 'x'); SELECT nope FROM tv_item", "UPDATE tv_itm SET id = 1",
                "DO $$ BEGIN RAISE EXCEPTION 'own' USING ERRCODE = 'T1234', DETAIL = 'det', HINT = 'hin'; END $$",
                "SELECT app.create_item(60, NULL, 'dup')", "INSERT INTO tv_item VALUES (98, 'no uuid', 'x')"))
            fails("error", () -> { show(c, q); return 0; });
        fails("type", () -> { show(c, INSERT, "x", T, "y"); return 0; });
    }

    static void copy(Connection c) throws Exception {
        CopyManager m = c.unwrap(PGConnection.class).getCopyAPI();
        StringBuilder text = new StringBuilder();
        for (int i = 100; i < 3100; i++) text.append(i).append('\t').append(T).append("\tcopied\n");
        out(" ", m.copyIn("COPY tv_item FROM STDIN", new StringReader(text.toString())));           // +1
        c.setAutoCommit(false);
        out(" ", m.copyIn("COPY tv_item (id, tenant_id) FROM STDIN (FORMAT csv)",
            new ByteArrayInputStream(("4000," + T + "\n4001," + T + "\n").getBytes())));            // +1, in a block
        c.commit();
        c.setAutoCommit(true);
        fails("bad row", () -> m.copyIn("COPY tv_item FROM STDIN", new StringReader("x\ty\n")));
        fails("duplicate", () -> m.copyIn("COPY tv_item FROM STDIN", new StringReader("100\t" + T + "\tdup\n")));
        fails("no table", () -> m.copyIn("COPY tv_itm FROM STDIN", new StringReader("x\n")));
        CopyIn given = m.copyIn("COPY tv_item FROM STDIN");
        byte[] row = ("5000\t" + T + "\tx\n").getBytes();
        given.writeToCopy(row, 0, row.length);
        given.cancelCopy();                                                                         // CopyFail: nothing
        for (String form : List.of("text", "csv", "binary")) {
            ByteArrayOutputStream to = new ByteArrayOutputStream();
            out(" ", m.copyOut("COPY (SELECT id, name FROM tv_item WHERE id >= 3098 ORDER BY id) TO STDOUT (FORMAT " + form + ")", to),
                HexFormat.of().formatHex(to.toByteArray()));
        }
        show(c, "SELECT count(*), sum(id) FROM tv_item");
    }

    static void notifyAndCancel(Connection c) throws Exception {
        c.createStatement().execute("LISTEN ch");
        control.setAutoCommit(false);
        show(control, INSERT, 6000, T, "n");                                                        // +1
        show(control, "NOTIFY ch, 'in a transaction'");
        control.commit();
        control.setAutoCommit(true);
        for (var n : c.unwrap(PGConnection.class).getNotifications(5000)) out(" ", n.getName(), n.getParameter());
        // A write that is cancelled in its middle has done nothing: by another thread, by the driver's timer, by the server's.
        String text = "INSERT INTO tv_item SELECT 6001, '" + T + "', pg_sleep(20)::text";
        ScheduledExecutorService other = Executors.newSingleThreadScheduledExecutor();
        try (Statement s = c.createStatement(); PreparedStatement p = c.prepareStatement(text)) {
            for (PreparedStatement which : new PreparedStatement[] {null, p}) {
                Future<?> sent = other.schedule(() -> { (which == null ? s : which).cancel(); return 0; }, 300, TimeUnit.MILLISECONDS);
                fails("cancel", () -> which == null ? s.execute(text) : which.execute());
                sent.get();
            }
            s.setQueryTimeout(1);
            fails("timeout of the driver", () -> s.execute(text));
            s.setQueryTimeout(0);
            s.execute("SET statement_timeout = 200");
            fails("timeout of the server", () -> s.execute(text));
        } finally {
            other.shutdown();
        }
        out(" ", c.isValid(5), c.getMetaData().getDatabaseProductVersion());
        try (ResultSet r = c.getMetaData().getColumns(null, "public", "tv_item", null)) {          // the driver's own catalog queries
            while (r.next()) out(" ", r.getString("COLUMN_NAME"), r.getString("TYPE_NAME"), r.getString("IS_NULLABLE"));
        }
    }

    public static void main(String[] args) throws Exception {
        url = args[0].replaceFirst("^postgres(ql)?://(\\w+)@([^/]+)/(\\w+)$", "jdbc:postgresql://$3/$4?user=$2&sslmode=disable&gssEncMode=disable");
        Timer hangs = new Timer(true);
        hangs.schedule(new TimerTask() { public void run() { System.err.println("the program hangs"); Runtime.getRuntime().halt(1); } }, 120_000);
        control = connect("");
        control.createStatement().execute("SET client_min_messages = warning; DROP TABLE IF EXISTS tv_item, tb_plain;"
            + "DROP SCHEMA IF EXISTS app CASCADE; CREATE SCHEMA app; CREATE TABLE tb_plain (id int PRIMARY KEY, note text);"
            + "CREATE TABLE tv_item (id int PRIMARY KEY, tenant_id uuid, name text);"
            + "CREATE FUNCTION app.create_item(p_id int, p_tenant uuid, p_name text) RETURNS int LANGUAGE plpgsql AS $$"
            + " BEGIN RAISE NOTICE 'item %', p_id; INSERT INTO tv_item VALUES (p_id, p_tenant, p_name); RETURN p_id; END $$");
        for (String mode : List.of("", "&preferQueryMode=simple", "&preferQueryMode=extendedCacheEverything", "&prepareThreshold=1", "&prepareThreshold=-1"))
            part("queries", mode, mode.endsWith("simple") ? 7 : 8, c -> queries(c, mode.endsWith("simple")));
        part("batches", "", 20, c -> batches(c));
        part("batches with keys", "", 20, c -> batches(c, "id"));
        part("batches", "&reWriteBatchedInserts=true", 12, c -> batches(c));
        part("transactions", "", 5, Jdbc::transactions);
        part("autosave", "&autosave=always", 2, Jdbc::autosave);
        part("errors", "", 0, Jdbc::errors);
        // Here the driver sends the three statements of one text as three queries: the INSERT (98) stays. +1
        part("errors", "&preferQueryMode=simple", 1, Jdbc::errors);
        part("copy", "", 2, Jdbc::copy);
        part("notify and cancel", "", 1, Jdbc::notifyAndCancel);
        control.createStatement().execute("DROP TABLE tv_item, tb_plain; DROP SCHEMA app CASCADE");
        out("VERSION", sum, "of", expectedSum);
        if (sum != 0 && sum != expectedSum) throw new IllegalStateException("the version moved by neither 0 nor what was expected");
    }
}
