output "nodes" {
  description = "Each node's role, and the scaling group that keeps it alive."
  value       = { for name, node in local.nodes : name => { role = node.role, group = aws_autoscaling_group.node[name].name } }
}

output "dns_addresses" {
  description = "Addresses of this region's DNS nodes, for the delegation of the domain."
  value       = { for name, address in aws_eip.dns : name => address.public_ip }
}

output "volumes" {
  description = "The disk of each core."
  value       = { for name, volume in aws_ebs_volume.core : name => volume.id }
}

output "network" {
  description = "The network's id."
  value       = aws_vpc.mesh.id
}
