"""From a service's file to its resources: scoping, sets, implicit syncs, and refusals."""

from __future__ import annotations

import pytest
from agent_site import BASE, Site

from opensvc_hb.agent.names import NoSuchServiceError, called_as, list_services, service_file
from opensvc_hb.agent.service import NotAllowedHereError, NotManagedHereError
from opensvc_hb.errors import ConfigurationError, ConfigurationErrors


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def complaints(site, text, suffix=".env"):
    """What `validate config` says, without the file's folder."""
    site.service("svc", text, suffix)
    errors, notices = site.loader.validate("svc")
    folder = f"{site.root.etc}/"
    return [str(e).replace(folder, "") for e in errors], [str(n).replace(folder, "") for n in notices]


def test_a_file_alone_makes_a_service(site):
    """No link is needed; other files of the folder are no services."""
    site.service("b", BASE)
    site.service("a", BASE, ".conf")
    for name in ("node.conf", "auth.conf", "svc.backup", ".hidden.env"):
        (site.root.etc / name).write_text("")
    assert list_services(site.root) == ["a", "b"]
    assert service_file(site.root, "a").name == "a.conf"


def test_an_unknown_service_and_one_with_two_files_are_refused(site):
    """The reason names the service, or the file that is one too many."""
    with pytest.raises(NoSuchServiceError, match=r"^nosuch: service does not exist$"):
        site.loader.service("nosuch")
    with pytest.raises(NoSuchServiceError):
        site.loader.service("../etc/passwd")
    site.service("svc", BASE)
    site.service("svc", BASE, ".conf")
    with pytest.raises(ConfigurationError, match=r"svc\.conf exists too"):
        site.loader.service("svc")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("/usr/bin/svcmgr", None),
        ("/etc/opensvc/web", ("web", False)),
        ("web.example.com.cluster", ("web.example.com", True)),
    ],
)
def test_a_link_names_the_service_and_may_mean_cluster(command, expected):
    """Called through SVC it acts on SVC, through SVC.cluster with --cluster."""
    called = called_as(command)
    assert (called and (called.svcname, called.cluster)) == expected


def test_a_service_of_other_nodes_is_not_managed_here(site):
    """Neither is one without nodes, or with an empty file."""
    for text in (BASE.replace("n1 n2", "n3 n4"), "[DEFAULT]\nservice_type = DEV\n", ""):
        site.service("svc", text)
        with pytest.raises(NotManagedHereError, match=r"^service svc not managed here$"):
            site.loader.service("svc")


def test_a_test_service_is_not_run_on_a_production_node(site):
    """host_mode PRD of node.conf lets PRD services only."""
    (site.root.etc / "node.conf").write_text("[node]\nhost_mode = PRD\n")
    site.service("svc", BASE)
    text = r"^service svc type DEV is not allowed to run on this node \(host mode PRD\)$"
    with pytest.raises(NotAllowedHereError, match=text):
        site.loader.service("svc")
    site.service("svc", BASE.replace("DEV", "PRD"))
    assert site.loader.service("svc").service_type == "PRD"


SCOPED = """[DEFAULT]
service_type = DEV
nodes = n1 n2
drpnodes = n3
[fs#1]
type = fake
file = FILE:def
file@n2 = FILE:ontwo
file@drpnodes = FILE:ondrp
always_on = nodes
[fs#2]
type = fake
file@nodes = FILE:onnodes
file@drpnodes = FILE:ondrp2
disable_on = n2
optional_on = drpnodes
[fs#3]
type = fake
file = FILE:f3
monitor_on = nodes
disable@n1 = true
[hb#0]
type = OpenHA
"""


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("n1", {"fs#1": ("def", "S"), "fs#2": ("onnodes", ""), "fs#3": ("f3", "MD"), "hb#0": ("", "")}),
        ("n2", {"fs#1": ("ontwo", "S"), "fs#2": ("onnodes", "D"), "fs#3": ("f3", "M"), "hb#0": ("", "")}),
        ("n3", {"fs#1": ("ondrp", ""), "fs#2": ("ondrp2", "O"), "fs#3": ("f3", "")}),
    ],
)
def test_scoped_keywords_and_lists_of_nodes_hold_where_they_say(tmp_path, node, expected):
    """Values by node, nodes, drpnodes; standby, disabled, optional and monitored by node lists."""
    site = Site(tmp_path, node)
    site.service("svc", SCOPED)
    found = {}
    for member in site.loader.service("svc").members:
        if member.group != "sync":
            marks = zip("MDOS", (member.monitor, member.disable, member.optional, member.standby))
            file = member.resource.options.get("file")
            found[member.rid] = (file.name if file else "", "".join(mark for mark, there in marks if there))
    assert found == expected


def test_implicit_syncs_exist_with_two_nodes_and_with_drpnodes(site):
    """sync#i0 needs two nodes, sync#i1 a disaster recovery node; the same label always."""
    site.service("one", BASE.replace("n1 n2", "n1"))
    site.service("two", BASE)
    site.service("drp", BASE + "drpnodes = n3\n")
    rids = {name: [m.rid for m in site.loader.service(name).members] for name in ("one", "two", "drp")}
    assert rids == {"one": [], "two": ["sync#i0"], "drp": ["sync#i0", "sync#i1"]}
    labels = [member.resource.label for member in site.loader.service("drp").members]
    assert labels == ["rsync svc config to drpnodes, nodes", "rsync system files to drpnodes"]


def test_each_complaint_names_file_line_section_and_keyword(site):
    """A bad service is refused as a whole, with one line for each thing that is wrong."""
    errors, _ = complaints(
        site,
        "[DEFAULT]\nservice_type = XXX\nnodes = n1 n2\nfoo = bar\ndisable = maybe\n"
        "[fs#1]\ntype = fake\nnosuch = 1\n[fs#one]\ntype = fake\n[fs#2]\ntype = fakee\nfile = a\n"
        "[drbd#1]\nvgname = a\n[fs#3]\nfile = a\n[hb#0]\nname = x\n[foo#1]\n[fs#4]\ntype = fake\nfile = a\n"
        "always_on@n1 = n1\n[app#1]\nscript = /x\nstart = soon\n[subset#fs:a]\nparallel = perhaps\n",
    )
    drivers = site.loader.finder.all()
    types = ", ".join(
        sorted({name for driver in drivers if "fs" in driver.sections for name in driver.types})
    )
    assert "ext4, fake" in types
    assert errors == [
        "svc.env:2: DEFAULT.service_type: 'XXX' is not allowed"
        " (one of PRD, PPRD, REC, INT, DEV, TST, TMP, DRP, FOR, PRA)",
        "svc.env:4: DEFAULT.foo: unknown keyword",
        "svc.env:5: DEFAULT.disable: 'maybe' is not a boolean (1 yes true on, 0 no false off)",
        "svc.env:6: fs#1.file: file must be set in section fs#1",
        "svc.env:8: fs#1.nosuch: unknown keyword",
        "svc.env:9: fs#one: a resource's number must start with a digit",
        f"svc.env:12: fs#2.type: no driver for type 'fakee' (have {types})",
        "svc.env:14: drbd#1: no driver for drbd",
        f"svc.env:16: fs#3.type: type must be set in section fs#3 (one of {types})",
        "svc.env:18: hb#0.type: type must be set in section hb#0 (one of openha)",
        "svc.env:20: foo#1: no driver for foo",
        "svc.env:24: fs#4.always_on@n1: always_on cannot be scoped",
        "svc.env:27: app#1.start: 'soon' is not an integer",
        "svc.env:29: subset#fs:a.parallel: 'perhaps' is not a boolean (1 yes true on, 0 no false off)",
    ]
    with pytest.raises(ConfigurationErrors) as refused:
        site.loader.service("svc")
    assert len(refused.value.errors) == len(errors)


def test_the_file_is_judged_as_each_of_its_nodes_reads_it(site):
    """A keyword that is missing on another node only is an error here too."""
    errors, _ = complaints(site, BASE + "[fs#1]\ntype = fake\nfile@n1 = /a\n")
    assert errors == ["svc.env:4: fs#1.file: file must be set in section fs#1"]


def test_what_has_no_effect_is_mentioned_and_accepted(site):
    """Keywords of the agents without effect, scopes of nobody, keys twice."""
    errors, notices = complaints(
        site, BASE + "flex_min_nodes = 1\n[fs#1]\ntype = fake\nfile = /a\nfile@n9 = /b\nfile = /c\n"
    )
    assert errors == []
    assert notices == [
        "svc.env:4: DEFAULT.flex_min_nodes: accepted, without effect",
        "svc.env:8: fs#1.file@n9: 'n9' is no node of this service: never holds",
        "svc.env:9: fs#1.file: stands twice (also on line 7): this one, the last, holds",
    ]


def test_a_reservation_that_nothing_takes_is_mentioned(site):
    """Where no resource is on disks; one that is has a resource beside it that reserves them."""
    said = "svc.env:4: DEFAULT.scsireserv: no resource of this service is on disks: nothing is reserved"
    assert complaints(site, BASE + "scsireserv = true\n") == ([], [said])
    assert complaints(site, BASE + "scsireserv = false\n") == ([], [])
    assert complaints(site, BASE + "scsireserv = true\n[vg#1]\nvgname = web\n") == ([], [])
    assert "vg#1pr" in [member.rid for member in site.loader.service("svc").members]


def test_a_resource_of_a_guest_is_refused(site):
    """Without guests it would be started on the host."""
    errors, _ = complaints(site, BASE + "[fs#1]\ntype = fake\nfile = /a\ntags = encap\n")
    assert errors == ["svc.env:4: fs#1.tags: guests (encap) are not available"]


def test_a_kind_of_service_must_be_said_in_an_env_file_only(site):
    """`.env` needs service_type; a `.conf` takes env, or the node's."""
    errors, _ = complaints(site, "[DEFAULT]\nnodes = n1\n")
    assert errors[0].startswith("svc.env:1: DEFAULT.service_type: must be set, one of PRD")
    (site.root.etc / "svc.env").unlink()
    assert complaints(site, "[DEFAULT]\nnodes = n1\n", ".conf")[0] == []
    assert site.loader.service("svc").service_type == "TST"
    assert complaints(site, "[DEFAULT]\nnodes = n1\nenv = UAT\n", ".conf")[0] == []
    assert site.loader.service("svc").service_type == "UAT"


def test_a_resource_inherits_keywords_of_default(site):
    """Common keywords and the driver's own alike; a key that nobody inherits is unknown."""
    site.service("svc", BASE + "monitor = true\nfile = FILE:a\n[fs#1]\ntype = fake\n")
    member = site.loader.service("svc").of_group("fs")[0]
    assert (member.monitor, member.resource.options["file"].name) == (True, "a")


def test_a_driver_that_cannot_be_imported_is_reported(site):
    """The line names the driver's file, what is wrong, and where."""
    path = site.root.etc / "drivers/resource/fs/broken.py"
    path.write_text("import nosuchmodule\n")
    errors, _ = complaints(site, BASE + "[fs#1]\ntype = broken\n")
    assert errors == [
        "svc.env:5: fs#1.type: driver drivers/resource/fs/broken.py cannot be loaded: "
        "ModuleNotFoundError: No module named 'nosuchmodule' (drivers/resource/fs/broken.py:1)"
    ]


def test_every_driver_of_ours_is_found_and_loads(site):
    """The folder holds no file that cannot be imported."""
    from opensvc_hb.agent.drivers import Missing

    drivers = site.loader.finder.all()
    assert [driver.reason for driver in drivers if isinstance(driver, Missing)] == []
    assert {"fs", "ip", "app", "disk.loop", "hb.openha", "sync.rsync"} <= {d.type_name for d in drivers}
