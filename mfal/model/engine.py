"""The model's numbers by a second way: the same parameters, fewer and larger operations.

`MultiFidelityCHGNet.forward` is CHGNet's own and the reference that this is tested against. What is different here:

- Geometry is computed once for undirected bonds, and the energy is derived once by the bond vectors: forces and stress
  both follow from that one gradient.
- The first layer of a gated MLP acts on the sum of what its inputs give alone, so it is applied to atoms and bonds
  before they are gathered to directed bonds and angles, which are ten to forty times as many; core and gate share it.
- Bonds too long for an angle are left out of the bond graph, and the last angle layer, which nothing reads, is skipped.
- The number of operations does not depend on the number of graphs, and none of them waits for the device.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from chgnet.model.basis import Fourier, RadialBessel
from torch import Tensor, nn

from mfal.model.batch import Batch
from mfal.model.gate import Gate
from mfal.model.multifidelity import MultiFidelityCHGNet
from mfal.model.normalize import normalize

#: GPa in one eV/Å3, as CHGNet has it.
GPA = 160.21766208


class Output(NamedTuple):
    """Of B graphs with N atoms together, by H heads."""

    energy: Tensor  # [B, H] eV/atom
    forces: Tensor  # [N, 3] eV/Å, of the mean of the heads or of the one that was asked for
    stress: Tensor  # [B, 3, 3] GPa, CHGNet's sign (dE/dstrain / V)
    magmoms: Tensor  # [N] µB, absolute
    features: Tensor  # [N, 64] of the atoms, what the readout takes


def predict(
    model: MultiFidelityCHGNet, batch: Batch, *, head: Tensor | None = None, create_graph: bool = False
) -> Output:
    """Energies, forces, stresses and moments of a batch.

    Args:
        head: [B] the head that the forces and stress of a graph are of; None is the mean of all.
        create_graph: whether something will be derived from the forces and stress (training).
    """
    bonds = bond_vectors(batch).requires_grad_()
    features, magmoms = trunk(model, batch, bonds, twice=create_graph)
    energies = head_energies(model, batch, features)
    derived = energies.mean(dim=1) if head is None else energies.gather(1, head[:, None])
    (gradient,) = torch.autograd.grad(derived.sum(), bonds, create_graph=create_graph)
    forces, stress = forces_and_stress(batch, bonds, gradient)
    output = Output(per_atom(model, batch, energies), forces, stress, magmoms, features)
    return output if create_graph else Output(*(tensor.detach() for tensor in output))


def forces_by_head(model: MultiFidelityCHGNet, batch: Batch) -> tuple[Output, Tensor, Tensor]:
    """The prediction, and forces [H, N, 3] and stress [H, B, 3, 3] of every head: one pass up, H down the trunk."""
    bonds = bond_vectors(batch).requires_grad_()
    features, magmoms = trunk(model, batch, bonds, twice=False)
    energies = head_energies(model, batch, features)
    heads = energies.shape[1]
    results = []
    for i, energy in enumerate(energies.sum(dim=0)):
        (gradient,) = torch.autograd.grad(energy, bonds, retain_graph=i + 1 < heads)
        results.append(forces_and_stress(batch, bonds.detach(), gradient))
    forces, stress = (torch.stack(parts) for parts in zip(*results, strict=True))
    energy = per_atom(model, batch, energies)
    output = Output(energy.detach(), forces.mean(0), stress.mean(0), magmoms.detach(), features.detach())
    return output, forces, stress


@torch.no_grad()
def predict_energies(model: MultiFidelityCHGNet, batch: Batch) -> Tensor:
    """[B, H] eV/atom, without the cost of a gradient."""
    features, _ = trunk(model, batch, bond_vectors(batch), twice=True)
    return per_atom(model, batch, head_energies(model, batch, features))


def bond_vectors(batch: Batch) -> Tensor:
    """[U, 3] Å."""
    positions = batch.positions
    return positions.index_select(0, batch.bond_from) - positions.index_select(0, batch.bond_to) - batch.bond_shift


def forces_and_stress(batch: Batch, bonds: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """From the derivative of the energy by the bond vectors, which move with the atoms and stretch with the cell."""
    forces = torch.zeros_like(batch.positions)
    forces = forces.index_add(0, batch.bond_to, gradient).index_add(0, batch.bond_from, gradient, alpha=-1)
    virial = torch.zeros_like(batch.lattice).flatten(1)
    virial = virial.index_add(0, batch.bond_graph, (bonds[:, :, None] * gradient[:, None, :]).flatten(1))
    return forces, virial.view(-1, 3, 3) * (GPA / batch.volume)[:, None, None]


def per_atom(model: MultiFidelityCHGNet, batch: Batch, energies: Tensor) -> Tensor:
    """[B, H] eV/atom with the reference energies."""
    references = model.composition_model.fc.weight[0].index_select(0, batch.elements)
    if "C" in model.parts:
        references = references + model.composition_model.delta[_fidelity(batch), batch.elements]
    sums = torch.zeros_like(batch.volume).index_add(0, batch.graph, references)
    return (energies + sums[:, None]) / batch.atoms[:, None]


def head_energies(model: MultiFidelityCHGNet, batch: Batch, features: Tensor) -> Tensor:
    """[B, H] eV of the whole cell, without the reference energies.

    All copies of the readout in one pass: those of all fidelities, of which each graph then takes its own.
    """
    copies = model.copies()
    values = features.expand(len(copies), -1, -1)
    for layers in zip(*(copy.layers for copy in copies), strict=True):
        if isinstance(layers[0], nn.Linear):
            weight = torch.stack([layer.weight for layer in layers])
            bias = torch.stack([layer.bias for layer in layers])
            values = torch.baddbmm(bias[:, None, :], values, weight.transpose(1, 2))
        else:  # activation or dropout: the same in all copies
            values = layers[0](values)
    by_copy = values.squeeze(2).T  # [N, F * H] or [N, H]
    sums = by_copy.new_zeros(batch.graphs, len(copies)).index_add(0, batch.graph, by_copy)
    if "R" not in model.parts:
        return sums
    sums = sums.view(batch.graphs, len(model.fidelities), model.heads)
    return sums.gather(1, batch.fidelity[:, None, None].expand(-1, 1, model.heads)).squeeze(1)


def trunk(model: MultiFidelityCHGNet, batch: Batch, bonds: Tensor, *, twice: bool) -> tuple[Tensor, Tensor]:
    """Features [N, 64] that the readout takes, and moments [N].

    Args:
        twice: whether derivatives will be derived again (training); without it they are cheaper.
    """
    encoder = model.bond_basis_expansion
    lengths = torch.linalg.vector_norm(bonds, dim=1, keepdim=True)
    basis = _radial(lengths, encoder.rbf_expansion_ag)
    short_lengths = lengths.index_select(0, batch.short_bond)
    short_basis = _radial(short_lengths, encoder.rbf_expansion_bg)
    directions = bonds.index_select(0, batch.short_bond) / short_lengths
    fidelity = _fidelity(batch)

    atoms = model.atom_embedding.embedding.weight.index_select(0, batch.elements)
    if "E" in model.parts:
        atoms = atoms + model.atom_embedding.embedding.delta[fidelity, batch.elements]
    features = model.bond_embedding(basis)
    weights = model.bond_weights_ag(basis).index_select(0, batch.edge_bond)
    short_weights = model.bond_weights_bg(short_basis)
    angle_weights = short_weights.index_select(0, batch.angle_first) * short_weights.index_select(0, batch.angle_second)
    products = directions.index_select(0, batch.angle_first) * directions.index_select(0, batch.angle_second)
    cosines = products.sum(dim=1, keepdim=True) * batch.angle_sign[:, None]
    angles = model.angle_embedding(_angular(cosines, model.angle_basis_expansion.fourier_expansion))
    magmoms = torch.zeros_like(atoms[:, 0])

    last = len(model.atom_conv_layers) - 1
    for i, layer in enumerate(model.atom_conv_layers):
        if i == last:
            magmoms = model.site_wise(atoms).abs().view(-1)
        gate = Gate.of(layer.twoBody_atom, twice=twice)
        center, bond, neighbor = gate.weight.split([atoms.shape[1], features.shape[1], atoms.shape[1]], dim=1)
        hidden = (
            gate.shifted(F.linear(atoms, center, gate.bias), fidelity).index_select(0, batch.edge_center)
            + F.linear(atoms, neighbor).index_select(0, batch.edge_neighbor)
            + F.linear(features, bond).index_select(0, batch.edge_bond)
        )
        message = torch.zeros_like(atoms).index_add(0, batch.edge_center, gate.finish(hidden) * weights)
        atoms = atoms + layer.mlp_out(message)
        if i == last or batch.angle_center.shape[0] == 0:
            continue
        # Bonds, of which only the short ones get messages.
        layer, short = model.bond_conv_layers[i], features.index_select(0, batch.short_bond)
        gate = Gate.of(layer.twoBody_bond, twice=twice)
        hidden = _angle_input(gate, batch, atoms, short, angles, fidelity)
        message = torch.zeros_like(short).index_add(0, batch.angle_first, gate.finish(hidden) * angle_weights)
        out = layer.mlp_out.layers[-1]
        update = F.linear(message, out.weight)
        features, short = features.index_add(0, batch.short_bond, update), short + update
        if out.bias is not None:  # 0.2.0: every bond gets it
            features, short = features + out.bias, short + out.bias
        if i < last - 1:  # nothing reads the last angles
            gate = Gate.of(model.angle_layers[i].twoBody_bond, twice=twice)
            angles = angles + gate.finish(_angle_input(gate, batch, atoms, short, angles, fidelity))
    if model.readout_norm is not None:
        atoms = torch.addcmul(model.readout_norm.bias, normalize(atoms), model.readout_norm.weight)
    return atoms, magmoms


def _angle_input(gate: Gate, batch: Batch, atoms: Tensor, short: Tensor, angles: Tensor, fidelity: Tensor) -> Tensor:
    """The first layer of the bond and angle updates, for every angle."""
    width = short.shape[1]
    first, second, angle, center = gate.weight.split([width, width, angles.shape[1], atoms.shape[1]], dim=1)
    at_center = gate.shifted(F.linear(atoms, center, gate.bias), fidelity)
    return (
        F.linear(short, first).index_select(0, batch.angle_first)
        + F.linear(short, second).index_select(0, batch.angle_second)
        + at_center.index_select(0, batch.angle_center)
        + F.linear(angles, angle)
    )


def _fidelity(batch: Batch) -> Tensor:
    return batch.fidelity.index_select(0, batch.graph)


def _radial(lengths: Tensor, bessel: RadialBessel) -> Tensor:
    """The radial Bessel functions of lengths [U, 1], smoothed to zero at the cutoff."""
    scaled = lengths * bessel.inv_cutoff
    smooth = bessel.smooth_cutoff(lengths)
    return smooth * bessel.norm_const / lengths * torch.sin(bessel.frequencies * scaled)


def _angular(cosines: Tensor, fourier: Fourier) -> Tensor:
    """The Fourier expansion of the angles of cosines [A, 1]."""
    # As CHGNet: a little inside of 1, where the angle has no derivative.
    waves = torch.acos(cosines * (1 - 1e-6)) * fourier.frequencies
    constant = torch.full_like(cosines, 2**-0.5)
    return torch.cat([constant, torch.sin(waves), torch.cos(waves)], dim=1) * math.pi**-0.5
