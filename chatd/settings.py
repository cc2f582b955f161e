"""Every setting, once: its type, its bounds, its default and its comment. All else is generated from here; where values
come from tells `chatd.configuration`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

CONFIG_NAME = "chatd.toml"
"""The file in a data directory."""


class ServerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the server listens and keeps its data."""

    host: Annotated[str, Meta(min_length=1, description="Address to listen on. Loopback keeps registration open.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port; 0 takes a free one.")] = 8080
    data_dir: Annotated[str, Meta(min_length=1, description="Directory of everything that must last.")] = "data"
    origins: Annotated[
        tuple[str, ...],
        Meta(
            description="Browser origins that may connect, as https://chat.example; the server's own is always "
            'allowed, "*" allows all.'
        ),
    ] = ()
    web: Annotated[
        bool, Meta(description="Serve the web client at / and the JavaScript SDK at /sdk/chatd.js; false: neither.")
    ] = True
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least severe level that is logged.")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "json", "console"],
        Meta(description="How a log line looks; auto: console on a terminal, JSON otherwise."),
    ] = "auto"
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(description="Addresses or networks whose X-Forwarded-For is believed for per-address limits."),
    ] = ()
    tls_certificate: Annotated[
        str, Meta(description='PEM file of the certificate and its chain, for TLS without a proxy in front; "": none.')
    ] = ""
    tls_key: Annotated[str, Meta(description="PEM file of its key, without passphrase; needed with it.")] = ""
    allow_cleartext: Annotated[
        bool,
        Meta(
            description="Listen without TLS of its own where other machines reach it: a proxy in front has TLS, or the "
            "network is trusted."
        ),
    ] = False
    metrics_listen: Annotated[
        str,
        Meta(
            description="Where metrics are served to whoever reaches it, as 127.0.0.1:9464 or [::1]:9464; "
            '"": at the main port, to this machine only. The workers of `chatd cluster` count on from this port.'
        ),
    ] = ""


class StoreSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What holds messages, marks and accounts."""

    kind: Annotated[
        Literal["sqlite", "redis", "memory"],
        Meta(
            description="sqlite: one durable file in data_dir. redis: shared by many processes. "
            "memory: gone at exit, for tests."
        ),
    ] = "sqlite"
    synchronous: Annotated[
        Literal["full", "normal"],
        Meta(description="SQLite: full makes every commit durable (fsync); normal leaves it to the OS."),
    ] = "full"
    wal_autocheckpoint_pages: Annotated[
        int,
        Meta(
            ge=100, le=1_000_000, description="SQLite: pages (1 KiB) of write-ahead log after which a checkpoint runs."
        ),
    ] = 65_536
    readers: Annotated[int, Meta(ge=1, le=16, description="SQLite: threads that read.")] = 2
    conversations_cached_max: Annotated[
        int, Meta(ge=16, le=1_000_000, description="Conversations whose head and marks are kept in memory.")
    ] = 10_000
    redis_url: Annotated[
        str,
        Meta(
            min_length=1,
            description="Redis: where it is, as redis://user:password@host:port/0, rediss:// with TLS, "
            "unix:///path/to/socket, or sentinel://host:port,host:port/name/0.",
        ),
    ] = "redis://127.0.0.1:6379/0"
    redis_prefix: Annotated[
        str,
        Meta(pattern=r"^[A-Za-z0-9:._-]{0,64}$(?!\n)", description="Redis: stands before the name of every key."),
    ] = "chatd:"
    redis_durability: Annotated[
        Literal["auto", "fsync", "os", "memory"],
        Meta(
            description="Redis: what a commit survives, where CONFIG GET is forbidden. fsync: refuse to start unless "
            "appendonly is yes and appendfsync always."
        ),
    ] = "auto"
    redis_replicas: Annotated[
        int,
        Meta(
            ge=0,
            le=16,
            description="Redis: so many replicas must have a write before it is answered; sends wait while too few do.",
        ),
    ] = 0
    redis_timeout_s: Annotated[
        float, Meta(ge=0.05, le=60, description="Redis: seconds to wait for a connection, and for an answer.")
    ] = 5.0
    redis_connections_max: Annotated[
        int, Meta(ge=1, le=1_000, description="Redis: connections of one process; beyond, calls wait.")
    ] = 16


class RetentionSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long messages are kept."""

    days: Annotated[
        int,
        Meta(ge=0, le=36_500, description="Messages older than so many days are deleted, read or not; 0: none ever."),
    ] = 0
    walk_s: Annotated[
        float, Meta(ge=1, le=86_400, description="The store is looked through for old messages this often.")
    ] = 3_600.0


class AccountSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may have an account, and how a token is checked."""

    registration: Annotated[
        Literal["auto", "open", "invite", "closed"],
        Meta(description="Who may register; auto: open on a loopback address, by invite otherwise."),
    ] = "auto"
    password_chars_min: Annotated[int, Meta(ge=1, le=128, description="Shortest password, in characters.")] = 8
    token_days: Annotated[int, Meta(ge=0, le=3650, description="Days a login token lives; 0: until revoked.")] = 0
    devices_per_user_max: Annotated[
        int, Meta(ge=1, le=1000, description="Devices of one user; at the bound a login is refused.")
    ] = 50
    jwt_keys: Annotated[
        str,
        Meta(
            description='JWK Set file of a host application\'s keys (HS256, RS256, EdDSA by kid); "": no JWTs. '
            "With it the host vouches for its users: any well-formed name can be written to."
        ),
    ] = ""
    jwt_audience: Annotated[str, Meta(description="The aud that a JWT must carry.")] = "chatd"
    jwt_issuer: Annotated[str, Meta(description="The iss that a JWT must carry; needed with jwt_keys.")] = ""


class LimitSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds, with what happens there: a refusal that tells when to come back, or a close code."""

    frame_bytes_max: Annotated[
        int, Meta(ge=1024, le=1_048_576, description="Largest frame from a client; a larger one closes with 1009.")
    ] = 65_536
    body_bytes_max: Annotated[
        int, Meta(ge=1, le=524_288, description="Largest message body in UTF-8 bytes; too_large beyond.")
    ] = 16_384
    window_messages_max: Annotated[
        int, Meta(ge=1, le=10_000, description="Unacknowledged messages in flight to one device, then it waits.")
    ] = 256
    initial_history: Annotated[
        int, Meta(ge=0, le=1_000, description="Messages of each conversation that a new device is given.")
    ] = 50
    write_buffer_bytes_max: Annotated[
        int, Meta(ge=4_096, le=16_777_216, description="Bytes a socket may owe its client before it is not read.")
    ] = 65_536
    lane_drafts_max: Annotated[
        int, Meta(ge=1, le=100_000, description="Messages that wait for commit in one conversation; overloaded beyond.")
    ] = 1_024
    queue_drafts_max: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Messages and marks that wait for commit in all; overloaded beyond.")
    ] = 20_000
    batch_drafts_max: Annotated[int, Meta(ge=1, le=10_000, description="Messages in one commit.")] = 512
    commit_interval_ms: Annotated[
        float,
        Meta(ge=0, le=100, description="Least time between two commits under load; an idle server does not wait."),
    ] = 1.5
    commit_timeout_s: Annotated[
        float, Meta(gt=0, le=300, description="After this a commit's outcome is unknown and is read back.")
    ] = 10.0
    catch_ups_max: Annotated[
        int, Meta(ge=1, le=10_000, description="Devices that say hello or read the log at a time; the others wait.")
    ] = 8
    connections_max: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Open sockets; beyond, a new one is closed with 1013.")
    ] = 50_000
    connections_per_user_max: Annotated[
        int, Meta(ge=1, le=1000, description="Open sockets of one user; beyond, the hello is refused.")
    ] = 50
    sends_per_s: Annotated[float, Meta(gt=0, description="Messages per second of one user.")] = 50.0
    sends_burst: Annotated[int, Meta(ge=1, description="Messages a user may send at once.")] = 200
    frames_per_s: Annotated[float, Meta(gt=0, description="Frames per second of one connection.")] = 200.0
    frames_burst: Annotated[int, Meta(ge=1, description="Frames a connection may send at once.")] = 1_000
    bytes_per_s: Annotated[float, Meta(gt=0, description="Bytes per second of one connection.")] = 524_288.0
    bytes_burst: Annotated[int, Meta(ge=1024, description="Bytes a connection may send at once.")] = 4_194_304
    connects_per_s: Annotated[float, Meta(gt=0, description="New connections per second of one address.")] = 20.0
    connects_burst: Annotated[int, Meta(ge=1, description="Connections one address may open at once.")] = 200
    upgrades_per_s: Annotated[
        float,
        Meta(gt=0, description="New WebSockets per second of all addresses in one process; more wait their turn."),
    ] = 100.0
    upgrades_burst: Annotated[int, Meta(ge=1, description="WebSockets that come in at once after a quiet time.")] = 10
    logins_per_s: Annotated[float, Meta(gt=0, description="Logins and registrations per second of one address.")] = 0.5
    logins_burst: Annotated[int, Meta(ge=1, description="Logins one address may try at once.")] = 20
    refusals_max: Annotated[
        int, Meta(ge=1, le=100_000, description="Frames refused as rate_limited in a row; then close code 4429.")
    ] = 1_000


class TimingSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Deadlines, in seconds."""

    head_s: Annotated[float, Meta(gt=0, le=300, description="A request's head must be there by then.")] = 10.0
    hello_s: Annotated[float, Meta(gt=0, le=300, description="The hello must be there by then; else 4408.")] = 5.0
    heartbeat_s: Annotated[int, Meta(ge=1, le=600, description="A WebSocket ping goes out this often.")] = 25
    pong_s: Annotated[int, Meta(ge=1, le=600, description="No pong by then: 4408.")] = 10
    drain_s: Annotated[float, Meta(ge=0, le=300, description="Longest orderly end after SIGTERM.")] = 15.0


class PresenceSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is there."""

    interval_s: Annotated[
        float, Meta(ge=0.05, le=300, description="A subscriber hears of changes at most this often, all in one frame.")
    ] = 5.0
    grace_s: Annotated[
        float, Meta(ge=0, le=300, description="A user whose last connection ended counts as there for so long.")
    ] = 10.0


class PushSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Notifications to devices that are away."""

    delay_s: Annotated[
        float,
        Meta(ge=0, le=3600, description="A connected user is notified if no device acknowledged a message by then."),
    ] = 10.0
    body: Annotated[
        bool, Meta(description="Notifications carry the newest message's text, not only who and how many.")
    ] = False
    contact: Annotated[
        str,
        Meta(
            description='Web Push: how its services reach you, as mailto:… or https://…; some refuse without it ("").'
        ),
    ] = ""
    webhook_url: Annotated[
        str,
        Meta(description='Every notification of every user is posted here, for your own APNs or FCM sender; "": none.'),
    ] = ""
    webhook_secret: Annotated[
        str, Meta(description="Key of the webhook's HMAC-SHA256 signature; needed with webhook_url.")
    ] = ""
    private_endpoints: Annotated[
        bool,
        Meta(
            description="Subscriptions may name http:// and private or loopback addresses, as an ntfy of your own; "
            "else whoever has an account could reach into your network."
        ),
    ] = False
    timeout_s: Annotated[
        float, Meta(gt=0, le=300, description="A push service that has not answered by then failed.")
    ] = 10.0
    retry_s_min: Annotated[
        float, Meta(gt=0, le=3600, description="Longest wait before the first retry, then doubled.")
    ] = 2.0
    retry_s_max: Annotated[float, Meta(gt=0, le=86_400, description="Longest wait before a retry.")] = 600.0
    give_up_s: Annotated[
        float, Meta(gt=0, le=2_419_200, description="Older messages are not notified of, and retries end.")
    ] = 86_400.0
    sends_max: Annotated[
        int, Meta(ge=1, le=10_000, description="Notifications under way at once; the others wait.")
    ] = 64
    pending_max: Annotated[
        int,
        Meta(ge=1, le=10_000_000, description="Conversations watched for a push; beyond, the store is asked later."),
    ] = 100_000
    pending_per_user_max: Annotated[
        int, Meta(ge=1, le=100_000, description="The same for one user; beyond, the store is asked later.")
    ] = 200


class ClusterSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Several processes on one store."""

    bus_url: Annotated[
        str,
        Meta(
            description="Redis that carries hints between the processes, as store.redis_url has it: one server, any "
            'one of a cluster, or sentinels; "": one process.'
        ),
    ] = ""
    reconcile_s: Annotated[
        float,
        Meta(
            ge=1,
            le=3600,
            description="After a sign that hints may be lost (a process died, or dropped some) every session is "
            "compared with the store within so long.",
        ),
    ] = 30.0
    reconcile_calm_s: Annotated[
        float,
        Meta(
            ge=1,
            le=86_400,
            description="Without any sign, within so long; less than cluster.reconcile_s counts as that.",
        ),
    ] = 300.0
    spread_s: Annotated[
        float,
        Meta(ge=0, le=300, description="After a gap of the bus all sessions are compared within so many seconds."),
    ] = 5.0
    lease_s: Annotated[
        float, Meta(ge=1, le=300, description="A process that died without a word counts as dead after so long.")
    ] = 10.0
    publish_hints_max: Annotated[
        int, Meta(ge=16, le=1_000_000, description="Hints that wait for a server of the bus; one more is dropped.")
    ] = 10_000
    nodes: Annotated[
        tuple[str, ...],
        Meta(
            description="Workers on other hosts that `chatd cluster` also sends users to, as http://10.0.0.2:8080; "
            "each believes X-Forwarded-For of this host by server.trusted_proxies."
        ),
    ] = ()
    advertise: Annotated[
        str,
        Meta(
            description="Where routers reach this `chatd serve`, as http://10.0.0.2:8080: it is noted at "
            'cluster.bus_url, and every `chatd cluster` with that URL sends it its share of users; "": nowhere.'
        ),
    ] = ""
    weight: Annotated[int, Meta(ge=1, le=64, description="Shares of this process among those that are advertised.")] = 1


class TracingSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long each step of some messages took, for OpenTelemetry."""

    endpoint: Annotated[
        str,
        Meta(
            pattern=r"^(https?://[^\s]+)?$(?!\n)",
            description="Collector that traces go to by OTLP over HTTP, as http://127.0.0.1:4318; needs the extra: "
            "pip install 'chatd[otel]'. Its headers and the rest are variables OTEL_… of the environment; \"\": none.",
        ),
    ] = ""
    ratio: Annotated[float, Meta(ge=0, le=1, description="Share of the messages that are traced, by chance.")] = 0.01
    follow: Annotated[
        bool,
        Meta(
            description="A message over HTTP belongs to its caller's trace, and is traced if that is (traceparent); "
            "false: what callers say of traces is ignored."
        ),
    ] = False


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of them, by section."""

    server: ServerSettings = field(default_factory=ServerSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    accounts: AccountSettings = field(default_factory=AccountSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    timing: TimingSettings = field(default_factory=TimingSettings)
    presence: PresenceSettings = field(default_factory=PresenceSettings)
    push: PushSettings = field(default_factory=PushSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    tracing: TracingSettings = field(default_factory=TracingSettings)


def host_and_port(text: str) -> tuple[str, int]:
    """Take ``host:port`` apart; an IPv6 address stands in brackets. Raises: ValueError – it is not one."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not bare or (":" in bare) != (bare != host) or not port.isascii() or not port.isdigit():
        raise ValueError("it is written as host:port, as 127.0.0.1:9464 or [::1]:9464")
    if int(port) > 65_535:
        raise ValueError(f"{port} is no port")
    return bare, int(port)
