#!/usr/bin/env python3
"""The schema of a Terraform provider, of the types that .tf files use, out of its published bindings for npm.

    schema.py BINDINGS.tgz OUT.json FOLDER...

It knows names, types, what is required, what is nested. The bindings do not tell which values are allowed, which arguments
exclude each other, or which optional ones the provider fills in: all of those are taken to be.
"""

import json
import pathlib
import re
import sys
import tarfile

USED = re.compile(r'^\s*(resource|data)\s+"(\w+)"', re.M)
# An argument with the comment before it. The last anchor in that is its name in Terraform.
MEMBER = re.compile(r"readonly \w+(\??): (.+);$")
# A map's type goes over three lines.
MAP = re.compile(r"\{\n\s*(\[key: string\]: [^;\n]+);\n\s*\}")
ANCHOR = re.compile(r"#(\w+) ")
INTERFACE = re.compile(r"export interface (\w+)[^{]*\{(.*?)\n\}", re.S)
CLASS = re.compile(r"export declare class (\w+) extends cdktf\.Terraform(?:Resource|DataSource|Provider) \{(.*?)\n\}", re.S)
GETTER = re.compile(r"get (\w+)\(\): ([^;]+);")
READ = re.compile(r"get (\w+)\(\) \{\s*return this\.get\w+Attribute\('(\w+)'")
# How the bindings write an argument as HCL: whether it is a block, and a list, a set or a map.
HCL = re.compile(r"^ +(\w+): \{\n.*\n +isBlock: (true|false),\n +type: \"(\w+)\",", re.M)
SIMPLE = {"string": "string", "number": "number", "boolean": "bool"}


def scalar(text):
    text = text.replace("| cdktf.IResolvable", "").strip()
    if text in SIMPLE:
        return SIMPLE[text]
    if text.endswith("[]") and text[:-2] in SIMPLE:
        return ["list", SIMPLE[text[:-2]]]
    found = re.match(r"\{\s*\[key: string\]: \(?(\w+)", text)
    return ["map", SIMPLE.get(found[1], "string")] if found else None


def members(body):
    """The arguments of an interface: name in Terraform, `?` if it is optional, type."""
    name = None
    for line in body.splitlines():
        found = MEMBER.search(line)
        if found:
            yield name, *found.groups()
            name = None
        elif ANCHOR.search(line):
            name = ANCHOR.findall(line)[-1]


class Bindings:
    def __init__(self, folder, types, script):
        types = MAP.sub(r"{ \1 }", types)
        self.interfaces = {name: body for name, body in INTERFACE.findall(types)}
        self.types, self.folder = types, folder
        self.hcl = {}
        for name, block, kind in HCL.findall(script):
            self.hcl.setdefault(name, (block == "true", kind))
        self.read = dict(READ.findall(script))

    def block(self, interface):
        attributes, blocks = {}, {}
        for name, optional, text in members(self.interfaces[interface]):
            nested = text.replace("| cdktf.IResolvable", "").strip()
            inner = nested.removesuffix("[]")
            if inner in self.interfaces:
                many = nested.endswith("[]")
                kind = "set" if self.hcl.get(name, (True, "list"))[1] == "set" else "list"
                blocks[name] = {"nesting": kind, "max": 0 if many else 1, "min": 0 if optional else 1,
                                "block": self.block(inner)}
                continue
            found = scalar(text) or "dynamic"
            if isinstance(found, list) and found[0] == "list" and self.hcl.get(name, (False, ""))[1] == "set":
                found = ["set", found[1]]
            attributes[name] = {"type": found, "required": not optional}
        return {"attributes": attributes, "blocks": blocks}

    def whole(self):
        name, body = CLASS.search(self.types).groups()
        whole = self.block(f"{name}Config")
        for getter, text in GETTER.findall(body):
            computed = self.read.get(getter)
            if computed and computed not in whole["attributes"] and computed not in whole["blocks"]:
                whole["attributes"][computed] = {"type": "bool" if text == "cdktf.IResolvable" else scalar(text) or "dynamic", "computed": True}
        return whole


def main(archive, out, *folders):
    used = set()
    for folder in folders:
        for path in pathlib.Path(folder).rglob("*.tf"):
            used |= {found for found in USED.findall(path.read_text()) if found[1].startswith("aws_")}
    wanted = {"provider": ("provider", "")}
    for kind, name in used:
        wanted[("data-" + name if kind == "data" else name.removeprefix("aws_")).replace("_", "-")] = (kind, name)
    files, version = {}, ""
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = member.name.split("/")
            if len(parts) == 4 and parts[2] in wanted and parts[3] in ("index.js", "index.d.ts"):
                files[(parts[2], parts[3])] = tar.extractfile(member).read().decode().split("//# sourceMappingURL")[0]
    schema = {"provider": {}, "resource": {}, "data": {}}
    for folder, (kind, name) in sorted(wanted.items()):
        if (folder, "index.js") not in files:
            raise SystemExit(f'there is no {kind} "{name}" in these bindings')
        whole = Bindings(folder, files[(folder, "index.d.ts")], files[(folder, "index.js")]).whole()
        if kind == "provider":
            schema["provider"] = whole
            version = re.search(r"providerVersion: '([^']+)'", files[(folder, "index.js")])[1]
        else:
            schema[kind][name] = whole
    schema["version"] = version
    pathlib.Path(out).write_text(json.dumps(schema, indent=1, sort_keys=True))
    print(version)


main(*sys.argv[1:])
