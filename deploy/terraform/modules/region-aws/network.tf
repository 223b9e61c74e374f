# A network of two zones, IPv4 and IPv6. All nodes have public addresses: meeting relays, callers and the other regions reach them
# there, each node asks for certificates, and QUIC passes no load balancer that also speaks IPv6.

resource "aws_vpc" "mesh" {
  #checkov:skip=CKV2_AWS_11:a flow log keeps who spoke to whom and when, which is personal data; who wants it turns it on for output `network`
  region                           = var.aws_region
  cidr_block                       = var.cidr
  assign_generated_ipv6_cidr_block = true
  enable_dns_support               = true
  enable_dns_hostnames             = true
  tags                             = merge(local.tags, { Name = "nearfield-${var.region}" })
}

# Nothing is in it, and so nothing is let in by it.
resource "aws_default_security_group" "mesh" {
  region = var.aws_region
  vpc_id = aws_vpc.mesh.id
  tags   = local.tags
}

resource "aws_internet_gateway" "mesh" {
  region = var.aws_region
  vpc_id = aws_vpc.mesh.id
  tags   = merge(local.tags, { Name = "nearfield-${var.region}" })
}

resource "aws_subnet" "public" {
  count  = 2
  region = var.aws_region

  vpc_id                          = aws_vpc.mesh.id
  availability_zone               = local.zones[count.index]
  cidr_block                      = cidrsubnet(var.cidr, 1, count.index)
  ipv6_cidr_block                 = cidrsubnet(aws_vpc.mesh.ipv6_cidr_block, 8, count.index)
  assign_ipv6_address_on_creation = true
  tags                            = merge(local.tags, { Name = "nearfield-${var.region}-${count.index + 1}" })
}

resource "aws_route_table" "public" {
  region = var.aws_region
  vpc_id = aws_vpc.mesh.id
  tags   = merge(local.tags, { Name = "nearfield-${var.region}" })
}

resource "aws_route" "ipv4" {
  region                 = var.aws_region
  route_table_id         = aws_route_table.public.id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.mesh.id
}

resource "aws_route" "ipv6" {
  region                      = var.aws_region
  route_table_id              = aws_route_table.public.id
  destination_ipv6_cidr_block = "::/0"
  gateway_id                  = aws_internet_gateway.mesh.id
}

resource "aws_route_table_association" "public" {
  count          = 2
  region         = var.aws_region
  subnet_id      = aws_subnet.public[count.index].id
  route_table_id = aws_route_table.public.id
}

locals {
  zones = var.zones == null ? ["${var.aws_region}a", "${var.aws_region}b"] : var.zones
  world = { ipv4 = "0.0.0.0/0", ipv6 = "::/0" }
  # ROLE: what is let in, from whom. Nodes know each other by certificate; DNS is everybody's.
  doors = merge(
    {
      for door in setproduct(["edge", "core", "dns"], keys(local.world)) :
      "${door[0]}-mesh-${door[1]}" => { role = door[0], protocol = "udp", first = 4433, last = 4433, from = local.world[door[1]], why = "QUIC of other nodes" }
    },
    {
      # An edge's own checks open the way; relays that speak first come by these.
      for version in keys(local.world) :
      "edge-media-${version}" => { role = "edge", protocol = "udp", first = 32768, last = 60999, from = local.world[version], why = "WebRTC media of relays" }
    },
    {
      for door in setproduct(["udp", "tcp"], keys(local.world)) :
      "dns-${door[0]}-${door[1]}" => { role = "dns", protocol = door[0], first = 53, last = 53, from = local.world[door[1]], why = "DNS" }
    },
    {
      for range in var.api_ranges :
      "core-api-${range}" => { role = "core", protocol = "tcp", first = 8080, last = 8080, from = range, why = "the API" }
    },
  )
}

resource "aws_security_group" "node" {
  #checkov:skip=CKV2_AWS_5:launch templates attach it, by network_interfaces
  for_each = toset(["edge", "core", "dns"])
  region   = var.aws_region

  name_prefix = "nearfield-${var.region}-${each.key}-"
  description = "Nearfield ${each.key} nodes"
  vpc_id      = aws_vpc.mesh.id
  tags        = merge(local.tags, { Name = "nearfield-${var.region}-${each.key}" })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "door" {
  for_each = local.doors
  region   = var.aws_region

  security_group_id = aws_security_group.node[each.value.role].id
  description       = each.value.why
  ip_protocol       = each.value.protocol
  from_port         = each.value.first
  to_port           = each.value.last
  cidr_ipv4         = strcontains(each.value.from, ":") ? null : each.value.from
  cidr_ipv6         = strcontains(each.value.from, ":") ? each.value.from : null
  tags              = local.tags
}

# Relays, TURN servers and webhooks are anywhere and on any port. Where an edge may go, its own [egress] says.
resource "aws_vpc_security_group_egress_rule" "out" {
  for_each = { for way in setproduct(["edge", "core", "dns"], keys(local.world)) : "${way[0]}-${way[1]}" => { role = way[0], to = way[1] } }
  region   = var.aws_region

  security_group_id = aws_security_group.node[each.value.role].id
  description       = "To relays, other nodes and services"
  ip_protocol       = "-1"
  cidr_ipv4         = each.value.to == "ipv4" ? local.world.ipv4 : null
  cidr_ipv6         = each.value.to == "ipv6" ? local.world.ipv6 : null
  tags              = local.tags
}
