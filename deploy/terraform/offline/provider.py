"""A Terraform provider that has a schema, out of a file beside it, and does nothing: for `validate` and for mocked tests."""

import json
import pathlib

import tf.provider
from tf.gen import tfplugin_pb2 as pb
from tf.gen import tfplugin_pb2_grpc as rpc
from tf.runner import run_provider

NESTING = {"list": pb.Schema.NestedBlock.LIST, "set": pb.Schema.NestedBlock.SET}


def block(described):
    attributes = [
        pb.Schema.Attribute(
            name=name,
            type=json.dumps(attribute["type"]).encode(),
            required=attribute.get("required", False),
            optional=not attribute.get("required", False) and not attribute.get("computed", False),
            computed=not attribute.get("required", False),
        )
        for name, attribute in described["attributes"].items()
    ]
    blocks = [
        pb.Schema.NestedBlock(
            type_name=name,
            nesting=NESTING[nested["nesting"]],
            min_items=nested["min"],
            max_items=nested["max"],
            block=block(nested["block"]),
        )
        for name, nested in described["blocks"].items()
    ]
    return pb.Schema.Block(attributes=attributes, block_types=blocks)


def settings(described):
    """What a provider's own block may have: it computes nothing."""
    made = block(described)
    for attribute in made.attributes:
        attribute.computed = False
    return made


class Silent(rpc.ProviderServicer):
    def __init__(self, _provider):
        schema = json.loads((pathlib.Path(__file__).resolve().parent / "schema.json").read_text())
        self.schema = pb.GetProviderSchema.Response(
            provider=pb.Schema(block=settings(schema["provider"])),
            resource_schemas={name: pb.Schema(block=block(it)) for name, it in schema["resource"].items()},
            data_source_schemas={name: pb.Schema(block=block(it)) for name, it in schema["data"].items()},
            server_capabilities=pb.ServerCapabilities(get_provider_schema_optional=False),
        )

    def GetProviderSchema(self, request, context):
        return self.schema

    def ValidateProviderConfig(self, request, context):
        return pb.ValidateProviderConfig.Response()

    def ValidateResourceConfig(self, request, context):
        return pb.ValidateResourceConfig.Response()

    def ValidateDataResourceConfig(self, request, context):
        return pb.ValidateDataResourceConfig.Response()

    def ConfigureProvider(self, request, context):
        return pb.ConfigureProvider.Response()

    def UpgradeResourceState(self, request, context):
        return pb.UpgradeResourceState.Response(upgraded_state=pb.DynamicValue(json=request.raw_state.json))

    def StopProvider(self, request, context):
        return pb.StopProvider.Response()


class Nobody:
    """What the runner asks of a provider before anybody has spoken to it."""

    def full_name(self):
        return "registry.terraform.io/hashicorp/aws"


tf.provider.ProviderServicer = Silent
run_provider(Nobody())
