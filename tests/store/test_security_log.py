"""The record of security events: appended, bounded, readable after a crash."""

from flocklet.store.security_log import SecurityEvent, SecurityLog


def test_what_was_appended_is_read_back_by_the_next_process(tmp_path):
    log = SecurityLog(tmp_path / "security.log")
    assert log.append(SecurityEvent(1.0, "joined", "ab12", "laptop by invitation"))
    assert log.append(SecurityEvent(2.0, "removed", "ab12", "by kitchen\x1b[31m\n"))
    rows = list(SecurityLog(tmp_path / "security.log").read())
    assert [row.kind for row in rows] == ["joined", "removed"] and rows[1].what == "by kitchen?[31m?"
    assert (tmp_path / "security.log").stat().st_mode & 0o777 == 0o600


def test_the_same_again_is_not_written_until_ten_minutes_later(tmp_path):
    log = SecurityLog(tmp_path / "security.log")
    written = [log.append(SecurityEvent(at, "refused", "ab12", "flock")) for at in (0.0, 1.0, 599.0, 601.0)]
    assert written == [True, False, False, True]


def test_a_flood_costs_a_megabyte_and_loses_the_oldest_only(tmp_path):
    log = SecurityLog(tmp_path / "security.log")
    for n in range(12_000):
        log.append(SecurityEvent(float(n), "refused", f"{n:06x}", "x" * 80))
    kept = list(log.read())
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) < 1 << 20
    assert kept[-1].at_s == 11_999.0 and len(kept) > 3_000


def test_a_line_cut_off_by_a_crash_and_a_planted_link_do_no_harm(tmp_path):
    log = SecurityLog(tmp_path / "security.log")
    log.append(SecurityEvent(1.0, "joined", "a", "b"))
    with (tmp_path / "security.log").open("ab") as file:
        file.write(b'{"at_s": 2.0, "ki')
    assert len(list(log.read())) == 1
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "linked.log").symlink_to(tmp_path / "elsewhere")
    assert not SecurityLog(tmp_path / "linked.log").append(SecurityEvent(1.0, "joined", "a", "b"))
    assert (tmp_path / "elsewhere").read_text() == "mine"
