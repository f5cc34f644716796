-- What random programs work with. Every tv_ table has a row trigger that notes the truth inside the
-- writing transaction; Turnstile follows the trigger's function and finds that it drags nothing along.
CREATE SCHEMA oracle;
CREATE UNLOGGED TABLE oracle.truth (program text, xid xid8, statement text, domain text, tenant uuid);

-- A client's statement is told by the time at which the server received its message; of several in one
-- text by the tag that it writes, or that a function says.
CREATE FUNCTION oracle.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    v_tag text := coalesce(nullif(current_setting('oracle.tag', true), ''),
        CASE WHEN TG_OP = 'INSERT' THEN to_jsonb(NEW) ->> 'tag'
             WHEN TG_OP = 'UPDATE' AND to_jsonb(NEW) ->> 'tag' <> to_jsonb(OLD) ->> 'tag' THEN to_jsonb(NEW) ->> 'tag'
        END, '0');
    v_statement text := extract(epoch FROM statement_timestamp()) || '/' || v_tag;
    v_domain text;
BEGIN
    FOREACH v_domain IN ARRAY TG_ARGV LOOP
        IF TG_OP <> 'INSERT' THEN
            INSERT INTO oracle.truth VALUES (current_setting('oracle.program'), pg_current_xact_id(), v_statement, v_domain,
                (to_jsonb(OLD) ->> 'tenant_id')::uuid);
        END IF;
        IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND to_jsonb(NEW) ->> 'tenant_id' IS DISTINCT FROM to_jsonb(OLD) ->> 'tenant_id') THEN
            INSERT INTO oracle.truth VALUES (current_setting('oracle.program'), pg_current_xact_id(), v_statement, v_domain,
                (to_jsonb(NEW) ->> 'tenant_id')::uuid);
        END IF;
    END LOOP;
    RETURN NULL;
END $$;

-- TRUNCATE fires no row trigger: what is there is noted before.
CREATE FUNCTION oracle.note_truncate() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    v_tenant uuid;
BEGIN
    FOR v_tenant IN EXECUTE format('SELECT DISTINCT (to_jsonb(t) ->> ''tenant_id'')::uuid FROM %s t', TG_RELID::regclass) LOOP
        INSERT INTO oracle.truth VALUES (current_setting('oracle.program'), pg_current_xact_id(),
            extract(epoch FROM statement_timestamp()) || '/' || coalesce(nullif(current_setting('oracle.tag', true), ''), '0'),
            TG_ARGV[0], v_tenant);
    END LOOP;
    RETURN NULL;
END $$;

CREATE FUNCTION oracle.watch(relation text, VARIADIC domains text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION oracle.note(%s)',
        relation, (SELECT string_agg(quote_literal(d), ',') FROM unnest(domains) d));
END $$;

CREATE TABLE tv_user (id int PRIMARY KEY, tenant_id uuid, name text, tag int DEFAULT 0);
CREATE TABLE tv_post (id int PRIMARY KEY, tenant_id uuid NOT NULL, name text CHECK (name <> 'forbidden'), tag int DEFAULT 0);
CREATE TABLE tv_plain (id int PRIMARY KEY, name text, tag int DEFAULT 0);
CREATE TABLE tv_text (id int PRIMARY KEY, tenant_id text, name text, tag int DEFAULT 0);
CREATE TABLE "tv_Odd Name" (id int PRIMARY KEY, tenant_id uuid, name text, tag int DEFAULT 0);
CREATE TABLE tv_part (id int, tenant_id uuid, name text, tag int DEFAULT 0, PRIMARY KEY (id)) PARTITION BY HASH (id);
CREATE TABLE part_even PARTITION OF tv_part FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE tv_part_own PARTITION OF tv_part FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE tv_base (id int, tenant_id uuid, name text, tag int DEFAULT 0);
CREATE TABLE base_child () INHERITS (tv_base);
-- A trigger before the row that refuses every fifth and touches others.
CREATE TABLE tv_picky (id int PRIMARY KEY, tenant_id uuid, name text, tag int DEFAULT 0);
CREATE FUNCTION app_picky() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.id % 5 = 0 THEN RETURN NULL; END IF;
    NEW.name := NEW.name || '!';
    RETURN NEW;
END $$;
CREATE TRIGGER picky BEFORE INSERT OR UPDATE ON tv_picky FOR EACH ROW EXECUTE FUNCTION app_picky();
-- One that hands the row to another tenant.
CREATE TABLE tv_given (id int PRIMARY KEY, tenant_id uuid, name text, tag int DEFAULT 0);
CREATE FUNCTION app_given() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.tenant_id := '33333333-3333-3333-3333-333333333333';
    RETURN NEW;
END $$;
CREATE TRIGGER given BEFORE INSERT ON tv_given FOR EACH ROW EXECUTE FUNCTION app_given();
-- A source whose trigger writes a read table, and one whose rows cascade.
CREATE TABLE tb_source (id int PRIMARY KEY, tenant_id uuid, name text, tag int DEFAULT 0);
CREATE TABLE tv_synced (id int, tenant_id uuid, name text, tag int DEFAULT 0);
CREATE FUNCTION app_sync() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN DELETE FROM tv_synced WHERE id = OLD.id; END IF;
    IF TG_OP <> 'DELETE' AND NEW.name <> 'silent' THEN
        INSERT INTO tv_synced VALUES (NEW.id, NEW.tenant_id, NEW.name, NEW.tag);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER sync AFTER INSERT OR UPDATE OR DELETE ON tb_source FOR EACH ROW EXECUTE FUNCTION app_sync();
CREATE TABLE tb_parent (id int PRIMARY KEY, name text);
CREATE TABLE tv_child (id int PRIMARY KEY, tenant_id uuid, name text, tag int DEFAULT 0,
    parent int REFERENCES tb_parent ON DELETE CASCADE ON UPDATE CASCADE);
CREATE INDEX ON tv_child (parent);
CREATE TABLE tb_log (id bigserial, what text);
CREATE VIEW v_user AS SELECT * FROM tv_user;
CREATE TABLE tb_ruled (id int, tenant_id uuid, name text);
CREATE RULE ruled AS ON INSERT TO tb_ruled DO ALSO INSERT INTO tv_plain VALUES (NEW.id, NEW.name);
SELECT oracle.watch('tv_user', 'user'), oracle.watch('tv_post', 'post'), oracle.watch('tv_plain', 'plain'),
       oracle.watch('tv_text', 'text'), oracle.watch('"tv_Odd Name"', 'Odd Name'), oracle.watch('part_even', 'part'),
       oracle.watch('tv_part_own', 'part', 'part_own'), oracle.watch('tv_base', 'base'), oracle.watch('base_child', 'base'),
       oracle.watch('tv_picky', 'picky'), oracle.watch('tv_given', 'given'), oracle.watch('tv_synced', 'synced'),
       oracle.watch('tv_child', 'child');
-- Each client of the test truncates tables of its own: TRUNCATE waits for all others.
DO $$ BEGIN
    FOR i IN 0..7 LOOP
        EXECUTE format('CREATE TABLE tv_own%s (id int, tenant_id uuid, name text, tag int DEFAULT 0)', i);
        PERFORM oracle.watch('tv_own' || i, 'own' || i);
        EXECUTE format('CREATE TRIGGER note_truncate BEFORE TRUNCATE ON tv_own%s EXECUTE FUNCTION oracle.note_truncate(%L)', i, 'own' || i);
    END LOOP;
END $$;

CREATE SCHEMA app;
CREATE FUNCTION app.add_user(n int, tenant uuid, tag int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO tv_user VALUES (n, tenant, 'by function', tag);
    INSERT INTO tb_log (what) VALUES ('add_user');
    RETURN n;
END $$;
CREATE FUNCTION app.add_two(n int, tenant uuid, tag int) RETURNS int LANGUAGE sql AS $$
    INSERT INTO tv_user VALUES (n, tenant, 'by function', tag);
    INSERT INTO tv_post VALUES (n, tenant, 'by function', tag);
    SELECT n;
$$;
-- Says who it is: what it deletes bears other tags.
CREATE FUNCTION app.sync_posts(low int, high int, tag int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('oracle.tag', 'f' || tag, true);
    DELETE FROM tv_post WHERE id BETWEEN low AND high;
    INSERT INTO tv_post SELECT id, tenant_id, name FROM tv_user WHERE id BETWEEN low AND high AND tenant_id IS NOT NULL;
    PERFORM set_config('oracle.tag', '', true);
END $$;
CREATE FUNCTION app.dynamic(command text, tag int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('oracle.tag', 'f' || tag, true);
    EXECUTE command;
    PERFORM set_config('oracle.tag', '', true);
END $$;
CREATE FUNCTION app.undone(n int, tenant uuid) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    BEGIN
        INSERT INTO tv_user VALUES (n, tenant, 'undone');
        RAISE EXCEPTION 'undo';
    EXCEPTION WHEN raise_exception THEN
        RETURN 'undone';
    END;
END $$;
CREATE FUNCTION app.kept(n int, tenant uuid) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    BEGIN
        INSERT INTO tv_user VALUES (n, tenant, 'kept');
    EXCEPTION WHEN unique_violation THEN
        RETURN 'was there';
    END;
    RETURN 'kept';
END $$;
CREATE FUNCTION app.logs(what text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO tb_log (what) VALUES (what); END $$;
CREATE FUNCTION app.reads(n int) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT count(*) FROM tv_user WHERE id = n); END $$;
CREATE PROCEDURE app.plain(n int, tenant uuid, tag int) LANGUAGE plpgsql AS $$ BEGIN INSERT INTO tv_user VALUES (n, tenant, 'by procedure', tag); END $$;
-- Its statements are told by the CALL: the transactions of one CALL are one statement of the client.
CREATE PROCEDURE app.commits(n int, tenant uuid) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('oracle.tag', 'commits', true);
    INSERT INTO tv_user VALUES (n, tenant, 'before');
    COMMIT;
    PERFORM set_config('oracle.tag', 'commits', true);
    INSERT INTO tv_post VALUES (n, tenant, 'behind');
    COMMIT;
END $$;

-- A diamond and a cycle.
INSERT INTO turbo.tb_domain_cascade VALUES
    ('user', 'profile'), ('user', 'feed'), ('profile', 'wall'), ('feed', 'wall'), ('wall', 'user'), ('post', 'feed');
INSERT INTO turbo.tb_tenant VALUES ('11111111-1111-1111-1111-111111111111'), ('22222222-2222-2222-2222-222222222222'),
    ('33333333-3333-3333-3333-333333333333'), ('44444444-4444-4444-4444-444444444444');
