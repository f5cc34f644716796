-- A small CQRS application: commands write tb_ tables and refresh the denormalised tv_ tables that
-- queries read, inside functions, as real applications do.
CREATE SCHEMA app;

CREATE TABLE tb_user (
    id        uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id uuid NOT NULL,
    name      text NOT NULL
);
CREATE TABLE tb_post (
    id        uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id uuid NOT NULL,
    user_id   uuid NOT NULL REFERENCES tb_user ON DELETE CASCADE,
    title     text NOT NULL
);
CREATE TABLE tv_user (id uuid PRIMARY KEY, tenant_id uuid NOT NULL, data jsonb NOT NULL);
CREATE TABLE tv_post (id uuid PRIMARY KEY, tenant_id uuid NOT NULL, data jsonb NOT NULL);
CREATE TABLE tv_feed (tenant_id uuid PRIMARY KEY, data jsonb NOT NULL);

CREATE FUNCTION app.sync_tv_user(p_user uuid) RETURNS void LANGUAGE sql AS $$
    INSERT INTO tv_user (id, tenant_id, data)
    SELECT u.id, u.tenant_id,
           jsonb_build_object('name', u.name, 'posts', (SELECT count(*) FROM tb_post p WHERE p.user_id = u.id))
      FROM tb_user u WHERE u.id = p_user
        ON CONFLICT (id) DO UPDATE SET data = excluded.data
$$;

CREATE FUNCTION app.create_user(p_tenant uuid, p_name text) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE v_id uuid;
BEGIN
    INSERT INTO tb_user (tenant_id, name) VALUES (p_tenant, p_name) RETURNING id INTO v_id;
    PERFORM app.sync_tv_user(v_id);
    RETURN v_id;
END $$;

CREATE FUNCTION app.create_post(p_user uuid, p_title text) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE v_id uuid;
BEGIN
    INSERT INTO tb_post (tenant_id, user_id, title)
    SELECT u.tenant_id, u.id, p_title FROM tb_user u WHERE u.id = p_user RETURNING id INTO v_id;
    INSERT INTO tv_post (id, tenant_id, data)
    SELECT p.id, p.tenant_id, jsonb_build_object('title', p.title) FROM tb_post p WHERE p.id = v_id;
    PERFORM app.sync_tv_user(p_user);
    RETURN v_id;
END $$;

CREATE FUNCTION app.count_users(p_tenant uuid) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT count(*) FROM tb_user WHERE tenant_id = p_tenant
$$;

-- The feed is built from posts: whatever bumps post bumps feed.
INSERT INTO turbo.tb_domain_cascade (source_domain, target_domain) VALUES ('post', 'feed');
INSERT INTO turbo.tb_tenant (tenant_id) VALUES
    ('11111111-1111-1111-1111-111111111111'), ('22222222-2222-2222-2222-222222222222');
INSERT INTO turbo.tb_domain (domain) VALUES ('user'), ('post'), ('feed');
